"""A clock that is set while a sweep runs, or between two processes of one: the record's durations and last values stay right."""

import ast
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from search import tracking
from search.problem.pareto import Archive
from search.records.record import TrialRecord
from search.tracking import names
from search.tracking.client import MlflowClient
from search.tracking.stamps import stamps
from tests.search.tracking.cases import PARAMS, MakeSweep, children, drive, expected

pytestmark = pytest.mark.usefixtures("hasty")
ROOT = Path(__file__).parents[3]
HOUR = 3600.0
JUMPS = [-24 * HOUR, 3 * HOUR]
OF_THE_DAY = {
    "time.time",
    "time.time_ns",
    "datetime.now",
    "datetime.today",
    "datetime.utcnow",
    "date.today",
    "time.localtime",
    "time.ctime",
}
READERS = {  # what reads the time of day: dates in reports and in names, and the first stamp of a record
    "search/exporters/card_files.py",
    "search/exporters/measuring.py",
    "search/exporters/probing.py",
    "search/sweeps/header.py",
    "search/tracking/stamps.py",
}


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> "Jump":
    """Return what sets the time of day, for MLflow too."""
    return Jump(monkeypatch)


class Jump:
    """A time of day that can be set; clocks that only grow are left alone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by, real = 0.0, time.time
        monkeypatch.setattr(time, "time", lambda: real() + self.by)
        monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * (real() + self.by)))


@pytest.mark.parametrize("seconds", JUMPS)
def test_stamps_start_at_the_time_of_day_and_only_grow_then(seconds: float, jump: Jump) -> None:
    before = time.time()
    now = stamps()
    first = now()
    assert 0 <= first - int(1000 * before) < 60_000
    jump.by = seconds
    assert 0 <= now() - first < 60_000


def test_stamps_go_on_after_those_of_a_process_whose_clock_was_ahead() -> None:
    ahead = int(1000 * (time.time() + 24 * HOUR))
    assert stamps(ahead)() >= ahead


@pytest.mark.parametrize("seconds", JUMPS)
def test_a_clock_that_is_set_during_a_sweep_changes_no_duration_and_no_last_value(
    seconds: float, store_uri: str, make_sweep: MakeSweep, jump: Jump
) -> None:
    sweep = make_sweep("jumped", trials=24)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    archive = Archive(tuple(sweep.reference.values()))
    for trial in sweep.trials:  # set to and fro between the trials, and between a trial and the front that it moves
        jump.by = seconds * (trial.number % 4 > 1)
        _take(tracker, trial, archive, lambda: setattr(jump, "by", seconds - jump.by))
    assert tracker.finish("finished")
    _durations_are_right(store_uri, tracker.run_id)
    assert tracking.read(store_uri, "jumped") == expected(sweep, tracker.run_id)
    client = MlflowClient(store_uri)
    assert client.get_run(tracker.run_id).data.metrics["hypervolume"] == archive.hypervolume
    assert 0 <= client.get_run(tracker.run_id).info.end_time - client.get_run(tracker.run_id).info.start_time < 600_000
    last = max(
        (run for run in children(store_uri, tracker.run_id) if run.data.tags[names.PARETO] == "true"),
        key=lambda run: int(run.data.tags[names.TRIAL]),
    )
    curve = client.get_metric_history(last.info.run_id, "hypervolume")
    assert last.data.metrics["hypervolume"] == max(point.value for point in curve)


@pytest.mark.parametrize("seconds", JUMPS)
def test_a_clock_that_is_set_before_a_resume_leaves_the_record_right(
    seconds: float, store_uri: str, make_sweep: MakeSweep, jump: Jump
) -> None:
    sweep = make_sweep("resumed", trials=20)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    drive(tracker, sweep, sweep.trials[:12])
    assert tracker.finish("stopped")
    jump.by = seconds
    again = tracking.open(store_uri, None, "resumed")
    assert len(again.sweep.trials) == 12
    archive = Archive(tuple(sweep.reference.values()))
    for trial in sweep.trials:
        _take(again, trial, archive)
    assert again.finish("finished")
    assert tracking.read(store_uri, "resumed") == expected(sweep, tracker.run_id)
    _durations_are_right(store_uri, tracker.run_id)
    parent = MlflowClient(store_uri).get_run(tracker.run_id)
    assert parent.info.end_time >= parent.info.start_time
    assert parent.data.metrics["hypervolume"] == archive.hypervolume


def _take(tracker: tracking.Tracker, trial: TrialRecord, archive: Archive, between: Callable[[], None] = lambda: None) -> None:
    """Record a trial that is new, and the front that it moves."""
    if trial.number not in {done.number for done in tracker.sweep.trials}:
        tracker.record(trial)
        between()
    figures = {**trial.result.cost, **trial.result.metrics}
    if trial.result.ok and archive.add(trial.number, [figures[name] for name in tracker.sweep.objectives]):
        tracker.update_front(archive.numbers, archive.knee, archive.hypervolume)


def _durations_are_right(uri: str, run_id: str) -> None:
    """The made-up trials say that they took 0.125 s, or 0.5 s where they failed."""
    for run in children(uri, run_id):
        took = {"ok": 125, "failed": 500}[run.data.tags[names.STATUS]]
        assert run.info.end_time - run.info.start_time == took


def test_nothing_else_reads_the_time_of_day() -> None:
    """Time-outs, waits, the time left and durations are taken from clocks that only grow."""
    readers = set()
    for package in ("bitfront", "quant_core", "spaces", "hw_models", "search"):
        for path in (ROOT / package).rglob("*.py"):
            calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            if OF_THE_DAY & {".".join(ast.unparse(call).split(".")[-2:]) for call in calls}:
                readers.add(path.relative_to(ROOT).as_posix())
    assert readers == READERS
