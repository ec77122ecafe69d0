"""The writer: patient with a store that is away or slow; a record that the store refuses is skipped and reported."""

import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from search import tracking
from search.tracking.outage import StoreGoneError
from search.tracking.store import Store
from tests.search.tracking.cases import PARAMS, MakeSweep, children, drive, expected

pytestmark = pytest.mark.usefixtures("hasty")


def test_a_store_that_is_away_costs_a_warning(
    store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = make_sweep("patient", trials=20)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    apply, away = Store.apply, True

    def sometimes(self: Store, *arguments: Any) -> None:
        assert threading.current_thread() is not threading.main_thread(), "the sweep never waits for the store"
        if away:
            raise ConnectionError("refused by https://bob:hunter2-word@mlflow.example")
        apply(self, *arguments)

    monkeypatch.setattr(Store, "apply", sometimes)
    with caplog.at_level(logging.WARNING, logger="bitfront.tracking"):
        drive(tracker, sweep)
        while not caplog.records:  # the other thread says it after its first attempt
            time.sleep(0.01)
        assert tracking.read(store_uri, "patient").trials == expected(sweep, "").trials  # the journal is read too
        away = False
        assert tracker.finish("finished")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2, said
    assert "does not answer (ConnectionError: refused by https://***@mlflow.example). The sweep goes on" in said[0]
    assert tracking.read(store_uri, "patient") == expected(sweep, tracker.run_id)


def test_a_slow_store_is_waited_for_while_lines_arrive(store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock on which every trial takes 50 s: 600 s in all, of which no 60 pass without a line that arrives."""
    now, looked = 0.0, threading.Event()

    def clock() -> float:
        if threading.current_thread() is threading.main_thread():
            looked.set()
        return now

    sweep = make_sweep("slow", trials=12)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    send = Store._trial

    def slowly(self: Store, *arguments: Any) -> None:
        nonlocal now
        looked.wait()  # the clock never runs ahead of the one that waits by more than a trial
        looked.clear()
        send(self, *arguments)
        now += 50.0

    monkeypatch.setattr(Store, "_trial", slowly)
    for trial in sweep.trials:
        tracker.record(trial)
    monkeypatch.setattr("search.tracking.writer.time.monotonic", clock)
    assert tracker.finish("finished", timeout_s=60.0)
    assert now == 600.0
    assert len(children(store_uri, tracker.run_id)) == 12


def test_what_the_store_refuses_for_good_is_skipped_and_said(
    store_uri: str, make_sweep: MakeSweep, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = make_sweep("refused", trials=4)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    tracker.params({"seed": "another"})  # MLflow lets no parameter be changed
    drive(tracker, sweep)
    assert not tracker.finish("finished")
    assert "MLflow refused a record (params)" in caplog.text
    assert len(children(store_uri, tracker.run_id)) == 4


def test_a_full_disk_ends_the_wait_although_attempts_write_some_lines(
    store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = make_sweep("full", trials=8)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    lines = len(tracker._spool.unsent()[0])

    def full(self: Store, lines: Any, _files: Path) -> None:
        self.written = len(lines)  # every attempt gets some way, and none further than the first
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "apply", full)
    drive(tracker, sweep)
    assert not tracker.finish("finished", timeout_s=0.5)
    assert "the disk of mlflow.db is full. The sweep goes on; records are kept in" in caplog.text
    assert "MLflow does not have all of sweep full: the disk of mlflow.db is full. The rest is kept in" in caplog.text
    assert "free some space there, then `bitfront front full`" in caplog.text
    monkeypatch.undo()
    monkeypatch.chdir(Path(store_uri.removeprefix("sqlite:///")).parent)
    assert lines
    assert tracking.recover(store_uri, "full")
    assert tracking.read(store_uri, "full") == expected(sweep, tracker.run_id)
    assert not list(Path(".bitfront").glob("*.jsonl"))


@pytest.mark.parametrize("harm", ["remove", "replace", "garbage", "empty"])
def test_a_store_that_is_lost_on_the_way_leaves_all_of_the_sweep_in_the_journal(
    store_uri: str, make_sweep: MakeSweep, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    sweep, store = make_sweep("lost", trials=6), Path(store_uri.removeprefix("sqlite:///"))
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    drive(tracker, sweep, sweep.trials[:3])
    while tracker._spool.unsent(1)[0]:
        time.sleep(0.02)
    if harm in ("remove", "replace"):
        store.unlink()
    if harm == "replace":
        store.write_bytes(b"")
    elif harm != "remove":
        store.write_bytes(b"x" * 8192 if harm == "garbage" else b"")
    drive(tracker, sweep, sweep.trials[3:])
    assert not tracker.finish("finished", timeout_s=5.0)
    assert "all of it is kept in" in caplog.text
    assert "`bitfront repair lost` writes the sweep anew from its journal" in caplog.text
    kept = [line["trial"]["number"] for line in tracker._spool.unsent()[0] if line["op"] == "trial"]
    assert sorted(set(kept)) == list(range(6))


def test_the_error_of_a_lost_store_names_it(store_uri: str, make_sweep: MakeSweep) -> None:
    tracker = tracking.start(store_uri, "bitfront", make_sweep("named", trials=2), PARAMS)
    store = tracker._writer._store
    Path(store_uri.removeprefix("sqlite:///")).unlink()
    with pytest.raises(StoreGoneError, match=r"mlflow\.db was removed while the sweep ran"):
        store.apply([], Path())
    assert not tracker.finish("finished", timeout_s=0.2)
