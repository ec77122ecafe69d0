"""The tracker of a sweep: few writes per trial, figures that follow later, kill -9, and resuming."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from quant_core.util.errors import InputError
from search import tracking
from search.problem.pareto import Archive
from search.records.front import front_members, knee_number
from search.tracking import names
from search.tracking.client import MlflowClient
from search.tracking.spool import Spool
from tests.search.tracking.cases import PARAMS, MakeSweep, children, drive, expected

pytestmark = pytest.mark.usefixtures("hasty")
ROOT = Path(__file__).parents[3]


def test_a_trial_that_moves_the_front_costs_the_driver_two_writes(
    store_uri: str, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep("lean", trials=12)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    written: list[int] = []
    write = os.write
    driver = threading.get_ident()

    def count(handle: int, data: bytes) -> int:
        written.extend([len(data)] if threading.get_ident() == driver else [])
        return write(handle, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", count)
        patch.setattr(Spool, "keep_file", None)  # a file more would be several system calls more
        archive = drive(tracker, sweep)
    assert len(written) <= 24
    assert tracker.finish("finished")
    path = MlflowClient(store_uri).download_artifacts(tracker.run_id, "front.json")
    assert [row["trial"] for row in json.loads(Path(path).read_text())] == list(archive.numbers)


def test_the_test_figures_and_the_header_can_follow(store_uri: str, make_sweep: MakeSweep) -> None:
    sweep = make_sweep("judged", trials=15)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    archive = drive(tracker, sweep)
    judged = {n: replace(sweep.trials[n], test={"accuracy": 0.9 + n / 1000}) for n in archive.numbers}
    for trial in judged.values():
        tracker.record(trial)
    tracker.describe(replace(sweep, baseline={"accuracy_test": 0.5}))
    assert tracker.finish("finished")
    read = tracking.read(store_uri, "judged")
    assert {trial.number: trial.test for trial in read.trials if trial.test} == {n: dict(t.test) for n, t in judged.items()}
    assert read.baseline == {"accuracy_test": 0.5}
    runs = children(store_uri, tracker.run_id)
    assert len(runs) == 15
    knee = next(row for row in runs if row.data.tags[names.KNEE] == "true")
    assert int(knee.data.tags[names.TRIAL]) == archive.knee
    assert knee.data.metrics["accuracy_test"] == judged[archive.knee].test["accuracy"]
    assert len(MlflowClient(store_uri).get_metric_history(knee.info.run_id, "accuracy")) == 1


KILLED = """
import os, pickle, sys
sys.path.insert(0, {root!r})
from search import tracking
sweep = pickle.loads(open("sweep.pickle", "rb").read())
tracker = tracking.start({uri!r}, "bitfront", sweep, {{"searcher": "random"}})
for trial in sweep.trials[:17]:
    tracker.record(trial)
print("recorded", flush=True)
sys.stdin.read()
"""


def test_kill_9_loses_and_doubles_nothing(store_uri: str, make_sweep: MakeSweep) -> None:
    import pickle

    sweep = make_sweep("killed", trials=30)
    Path("sweep.pickle").write_bytes(pickle.dumps(sweep))
    code = KILLED.format(root=str(ROOT), uri=store_uri)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "recorded\n"
        with pytest.raises(InputError, match="another process is writing this sweep"):
            tracking.open(store_uri, None, "killed")
        process.send_signal(signal.SIGKILL)
    tracker = tracking.open(store_uri, None, "killed")
    assert tracker.sweep.trials == expected(sweep, "").trials[:17]
    drive(tracker, sweep)  # a driver replays what is recorded, and goes on
    assert tracker.finish("finished")
    assert tracking.read(store_uri, "killed") == expected(sweep, tracker.run_id)
    numbers = sorted(int(child.data.tags[names.TRIAL]) for child in children(store_uri, tracker.run_id))
    assert numbers == list(range(30))


def test_a_resumed_sweep_passes_over_the_fronts_of_its_past(store_uri: str, make_sweep: MakeSweep) -> None:
    sweep = make_sweep("resumed", trials=20)
    tracker = tracking.start(store_uri, "bitfront", sweep, PARAMS)
    drive(tracker, sweep, sweep.trials[:12])
    assert tracker.finish("stopped")
    again = tracking.open(store_uri, "bitfront", "resumed")
    assert again.sweep.status == "running"
    archive = Archive(tuple(sweep.reference[name] for name in sweep.objectives))
    for trial in sweep.trials:
        if trial.number >= 12:
            again.record(trial)
        figures = {**trial.result.cost, **trial.result.metrics}
        if trial.result.ok and archive.add(trial.number, [figures[name] for name in sweep.objectives]):
            again.update_front(archive.numbers, archive.knee, archive.hypervolume)
    assert again.finish("finished")
    curve = [(point.step, point.value) for point in MlflowClient(store_uri).get_metric_history(again.run_id, "hypervolume")]
    assert curve == sorted(curve)
    assert [value for _, value in curve] == sorted(value for _, value in curve)
    on_front = {int(child.data.tags[names.TRIAL]) for child in children(store_uri, again.run_id) if child.data.tags[names.PARETO] == "true"}
    assert on_front == set(archive.numbers) == {trial.number for trial in front_members(sweep)}
    assert archive.knee == knee_number(front_members(sweep), sweep.objectives)


def test_a_front_of_unrecorded_trials_is_refused(store_uri: str, make_sweep: MakeSweep) -> None:
    tracker = tracking.start(store_uri, "bitfront", make_sweep("odd", trials=2), PARAMS)
    with pytest.raises(InputError, match=r"trials \[7\] given as the front, but they were not recorded"):
        tracker.update_front([7], 7, 0.5)
    with pytest.raises(InputError, match="status 'done' given; known: running, finished, stopped, failed"):
        tracker.finish("done")
    assert tracker.finish("failed")
    assert tracking.read(store_uri, "odd").status == "failed"
