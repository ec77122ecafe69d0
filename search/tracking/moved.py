"""A SQLite store that was moved together with its artifacts: MLflow keeps their addresses as absolute ones. Free of mlflow."""

import contextlib
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from search.tracking.outage import SQLITE

log = logging.getLogger("bitfront.tracking")
ARTIFACTS = "mlartifacts"


def artifacts_beside(uri: str, name: str) -> str:
    """Return the address of the artifacts of an experiment, whose quoted name is `name`, beside a SQLite file."""
    return f"{(Path(uri.removeprefix(SQLITE)).parent.resolve() / ARTIFACTS).as_uri()}/{name}"


def follow(uri: str) -> None:
    """Have the addresses of artifacts lead beside the store again after its folder was moved; other stores are left alone.

    Without this a resumed sweep would make the old folder anew and write there. An address is changed where it leads to no folder and one
    of the same name lies in `mlartifacts` beside the store.
    """
    path = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or "?" in uri or not path.is_file() or not (path.parent / ARTIFACTS).is_dir():
        return
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(path, timeout=1.0)) as database:  # it is read-only, or no store yet
        for number, old in database.execute("SELECT experiment_id, artifact_location FROM experiments").fetchall():
            new = artifacts_beside(uri, str(old).rpartition("/")[2])
            if not str(old).endswith(f"/{ARTIFACTS}/{new.rpartition('/')[2]}") or _folder(old).exists() or not _folder(new).is_dir():
                continue
            begins = "experiment_id = ? AND substr(artifact_uri, 1, length(?) + 1) = ? || '/'"
            database.execute(
                f"UPDATE runs SET artifact_uri = ? || substr(artifact_uri, length(?) + 1) WHERE {begins}", (new, old, number, old, old)
            )
            database.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, number))
            database.commit()
            log.warning("The project folder was moved: artifacts are looked for in %s from now on.", _folder(new))


def _folder(address: str) -> Path:
    return Path(url2pathname(urlsplit(address).path))
