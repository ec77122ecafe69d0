"""Looking at a SQLite store before MLflow opens it: MLflow tries a file that it cannot use ten times, for minutes. Free of mlflow."""

import importlib.util
import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from quant_core.util.errors import BitfrontError
from search.tracking.names import redact
from search.tracking.outage import SQLITE, outage

log = logging.getLogger("bitfront.tracking")
LOCKED_S = 90.0
"""How long a store that another process has locked is waited for."""


def require_usable(uri: str) -> None:
    """Wait for a SQLite store that another process has locked, and refuse one that MLflow cannot use; other stores pass.

    Raises:
        BitfrontError: the store stays locked, is damaged, or has the tables of another version of MLflow; says what to do.
    """
    path = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or "?" in uri or not path.is_file():
        return
    deadline, said = time.monotonic() + LOCKED_S, False
    while True:
        try:
            revision = _revision(path)
            break
        except sqlite3.Error as error:
            if "readonly" in str(error):  # it can be read, and writing to it says more
                return
            if "locked" not in str(error) or time.monotonic() > deadline:
                why = outage(error, uri)
                remedy = why.remedy.partition(", then `bitfront front")[0]
                raise BitfrontError(f"MLflow at {redact(uri)} failed: {why.cause}; {remedy}.") from None
            if not said:
                log.warning("%s is locked by another process; waiting up to %.0f s.", path.name, LOCKED_S)
            said = True
            time.sleep(min(0.2, LOCKED_S))
    _require_revision(revision, path, uri)


def _revision(path: Path) -> str:
    """Return the version of MLflow's tables, "" where there are none, once the file can be written."""
    with closing(sqlite3.connect(path, timeout=1.0, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("ROLLBACK")
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            return ""
        row = database.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else ""


def _require_revision(revision: str, path: Path, uri: str) -> None:
    """Refuse tables of an older MLflow, which can be upgraded, and of a newer one, which needs that one."""
    spec = importlib.util.find_spec("mlflow")
    folder = Path(spec.origin).parent / "store" / "db_migrations" / "versions" if spec and spec.origin else Path()
    texts = {file.name.partition("_")[0]: file.read_text(encoding="utf-8") for file in folder.glob("*_*.py")}
    if not revision or not texts:
        return
    if revision not in texts:
        raise BitfrontError(
            f"{path.name} has the tables of a newer MLflow ({revision}); `pip install --upgrade mlflow`, or give another store."
        )
    if any(f'down_revision = "{revision}"' in text for text in texts.values()):
        raise BitfrontError(
            f"{path.name} has the tables of an older MLflow ({revision}); copy it, then run `mlflow db upgrade {redact(uri)}`."
        )
