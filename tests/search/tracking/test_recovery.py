"""Recovery of a sweep whose writer died: nothing is lost or doubled, and reading never writes."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from quant_core.util.errors import BitfrontError
from search import tracking
from search.tracking.client import MlflowClient
from search.tracking.spool import Spool
from search.tracking.store import Store
from tests.search.tracking.cases import PARAMS, MakeSweep, children, drive, expected

pytestmark = pytest.mark.usefixtures("hasty")


def test_a_replay_changes_nothing(store_uri: str, make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep("twice", trials=14)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    drive(tracker, sweep)
    shutil.copytree(".bitfront", tmp_path / "kept")
    assert tracker.finish("finished")
    client = MlflowClient(store_uri)
    before = [
        (child.info.run_id, child.data.tags, child.data.metrics, child.info.end_time) for child in children(store_uri, tracker.run_id)
    ]
    history = [client.get_metric_history(run_id, "hypervolume") for run_id, *_ in before]
    for path in (tmp_path / "kept").glob("*.jsonl"):  # the journal as it was, as if nothing had been noted as sent
        shutil.copy(path, ".bitfront")
    assert tracking.recover(store_uri, "twice")
    assert len(tracking.read(store_uri, "twice").trials) == 14
    assert not list(Path(".bitfront").glob("*.jsonl"))
    after = [(child.info.run_id, child.data.tags, child.data.metrics, child.info.end_time) for child in children(store_uri, tracker.run_id)]
    assert after == before
    assert [client.get_metric_history(run_id, "hypervolume") for run_id, *_ in before] == history


def test_what_was_not_sent_is_sent_by_a_recovery(
    store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = make_sweep("later", trials=6)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)

    def refuse(self: Store, *arguments: Any) -> None:
        raise ConnectionError("away")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "apply", refuse)
        drive(tracker, sweep)
        assert not tracker.finish("stopped", timeout_s=0.2)
    assert "MLflow does not have all of sweep later: MLflow does not answer (ConnectionError: away). The rest is kept in" in caplog.text
    assert len(children(store_uri, tracker.run_id)) == 0
    assert tracking.read(store_uri, "later") == expected(sweep, tracker.run_id, status="stopped")
    assert len(children(store_uri, tracker.run_id)) == 0, "reading never writes"
    assert tracking.recover(store_uri, "later")
    assert len(children(store_uri, tracker.run_id)) == 6
    assert MlflowClient(store_uri).get_run(tracker.run_id).info.status == "SCHEDULED"


def test_reading_what_a_dead_writer_left_sets_it_to_stopped(store_uri: str, make_sweep: MakeSweep) -> None:
    sweep = make_sweep("dead", trials=5)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    drive(tracker, sweep)
    assert tracking.read(store_uri, "dead").status == "running"
    assert tracker.close()  # everything is sent, but nobody said how it ended
    (Path(".bitfront") / f"{tracker.run_id}.jsonl").touch()
    before = MlflowClient(store_uri).get_run(tracker.run_id).info.status
    assert tracking.read(store_uri, "dead") == expected(sweep, tracker.run_id, status="stopped")
    assert MlflowClient(store_uri).get_run(tracker.run_id).info.status == before, "reading never writes"
    assert tracking.recover(store_uri, "dead")
    assert tracking.read(store_uri, "dead") == expected(sweep, tracker.run_id, status="stopped")
    assert MlflowClient(store_uri).get_run(tracker.run_id).info.status == "SCHEDULED"
    assert [path.name for path in Path(".bitfront").iterdir()] == ["mlflow.lock"]


def test_a_sweep_whose_journal_cannot_grow_is_read_all_the_same(
    store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its writer died on a full disk, and the disk still is."""
    sweep = make_sweep("full", trials=6)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    drive(tracker, sweep)
    assert tracker.close()
    journal = Spool(Path(".bitfront"), tracker.run_id)
    journal.acquire()
    journal.release(remove=False)

    def full(self: Spool, *lines: object) -> None:
        raise BitfrontError("cannot write the journal: No space left on device.")

    monkeypatch.setattr(Spool, "append", full)
    assert tracking.recover(store_uri, "full")
    assert tracking.read(store_uri, "full") == expected(sweep, tracker.run_id, status="stopped")
    assert "No space left on device. The sweep can be read, and is closed later." in caplog.text
