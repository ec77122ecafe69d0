"""A SQLite store is looked at before MLflow opens it: a locked one is waited for, one that it cannot use is named with what to do."""

import logging
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from quant_core.util.errors import BitfrontError
from search.tracking import checks
from search.tracking.checks import require_usable


@pytest.fixture
def store(store_uri: str) -> Path:
    return Path(store_uri.removeprefix("sqlite:///"))


def test_a_locked_store_is_waited_for(store_uri: str, store: Path, caplog: pytest.LogCaptureFixture) -> None:
    said = threading.Event()
    caplog.handler.addFilter(lambda record: bool(said.set()) or True if "is locked" in record.getMessage() else True)
    other = sqlite3.connect(store, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    release = threading.Thread(target=lambda: (said.wait(), other.execute("ROLLBACK")))
    release.start()
    with caplog.at_level(logging.WARNING, logger="bitfront.tracking"):
        require_usable(store_uri)
    release.join()
    other.close()
    assert "mlflow.db is locked by another process; waiting up to 90 s." in caplog.text


def test_a_store_that_stays_locked_is_named(store_uri: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LOCKED_S", 0.0)
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BitfrontError, match=r"mlflow\.db is locked by another process; end that process\."):
            require_usable(store_uri)


@pytest.mark.parametrize("harm", ["text", "pages"])
def test_a_damaged_store_is_named_at_once(store_uri: str, store: Path, harm: str) -> None:
    data = store.read_bytes()
    store.write_bytes(b"not a database at all " * 400 if harm == "text" else data[:100] + b"\xff" * 4000 + data[4100:])
    with pytest.raises(BitfrontError, match=r"mlflow\.db is damaged; move it away, then `bitfront repair SWEEP`"):
        require_usable(store_uri)


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("0a8213491aaa", r"tables of an older MLflow \(0a8213491aaa\); copy it, then run `mlflow db upgrade sqlite:///"),
        ("ffffffffffff", r"tables of a newer MLflow \(ffffffffffff\); `pip install --upgrade mlflow`"),
    ],
)
def test_tables_of_another_version_are_named_with_the_command(store_uri: str, store: Path, revision: str, message: str) -> None:
    with closing(sqlite3.connect(store, isolation_level=None)) as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    with pytest.raises(BitfrontError, match=message):
        require_usable(store_uri)


def test_other_stores_and_new_files_pass(store_uri: str, tmp_path: Path) -> None:
    require_usable(store_uri)
    require_usable("http://host")
    require_usable(f"sqlite:///{tmp_path}/absent.db")
