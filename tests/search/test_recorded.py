"""Sweeps that version 0.1.0 recorded, before the modules moved: they are read, resumed and exported as ever.

`recorded/` holds an MLflow store with four of them (finished, trained by the ladder, stopped by SIGTERM, killed by SIGKILL), the
journal that the killed one left, and the fronts as that version printed them. Its paths are those of a folder that has moved since.
"""

import gzip
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from quant_core.util.errors import InputError
from search import tracking
from search.exporters.flow import export
from search.sweeps.run import resume
from tests.forked import ran

ROOT = Path(__file__).parents[2]
RECORDED = Path(__file__).parent / "recorded"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of the store, absolute: MLflow keeps the engine of a relative one for the whole process."""
    script = gzip.decompress((RECORDED / "mlflow.sql.gz").read_bytes()).decode()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.executescript(script.replace("/home/user/project/ml", f"{tmp_path}/ml"))  # artifacts; the journal's path stays as it was
    database.close()
    shutil.copytree(RECORDED / "journal", tmp_path / ".bitfront")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(RECORDED))
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "cache"))  # with it the notes of who is trusted
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize("name", ["finished", "trained"])
def test_its_front_is_what_it_was(name: str, uri: str) -> None:
    shown = ran("front", name, "--json", "--uri", uri).stdout
    rows, before = json.loads(shown), json.loads((RECORDED / f"{name}.front.json").read_text())
    assert [{key: row[key] for key in old} for row, old in zip(rows, before, strict=True)] == before


def test_a_killed_one_is_read_with_its_journal_and_closed_by_name(uri: str) -> None:
    before = tracking.read(uri, "killed")
    assert (before.status, len(before.trials)) == ("stopped", 6)
    assert tracking.recover(uri, "killed")
    assert tracking.read(uri, "killed") == before
    assert not list(Path(".bitfront").glob("*.jsonl")), "all of it was sent"


@pytest.mark.parametrize("name", ["stopped", "killed"])
def test_it_is_resumed_where_it_stopped(name: str, uri: str) -> None:
    before = tracking.read(uri, name)
    outcome = resume(uri, name, log="plain", trust=True)
    assert (outcome.record.status, len(outcome.record.trials)) == ("finished", 14)
    assert outcome.record.trials[: len(before.trials)] == tuple(
        trial if not new.test else new for trial, new in zip(before.trials, outcome.record.trials, strict=False)
    )


def test_it_is_exported(uri: str) -> None:
    with pytest.raises(InputError, match=r"would run code: task.name = .*recorded_task.*add --trust"):
        export(uri, "finished", "knee", ["policy"], Path("out"))
    written = export(uri, "finished", "knee", ["policy", "safetensors"], Path("out"), trust=True)
    assert set(written) == {"policy", "safetensors"}
    assert json.loads(Path("out/export.json").read_text())["id"] == "af39e644b7"
