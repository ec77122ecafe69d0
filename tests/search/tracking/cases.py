"""How the tests of tracking record a sweep, and the record that they expect to read back."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from search import tracking
from search.problem.pareto import Archive
from search.records.record import SweepRecord, TrialRecord
from search.tracking import names
from search.tracking.client import MlflowClient

MakeSweep = Callable[..., SweepRecord]
PARAMS = {"searcher": "random", "device": "vu9p", "task": "digits", "seed": 3}


def drive(tracker: "tracking.Tracker", sweep: SweepRecord, trials: tuple[TrialRecord, ...] | None = None) -> Archive:
    """Record trials the way a sweep does."""
    archive = Archive(tuple(sweep.reference[name] for name in sweep.objectives))
    for trial in sweep.trials if trials is None else trials:
        tracker.record(trial)
        figures = {**trial.result.cost, **trial.result.metrics}
        if trial.result.ok and archive.add(trial.number, [figures[name] for name in sweep.objectives]):
            tracker.update_front(archive.numbers, archive.knee, archive.hypervolume)
    return archive


def run(uri: str, sweep: SweepRecord, experiment: str = "bitfront") -> tuple[str, Archive]:
    tracker = tracking.start(uri, experiment, sweep, PARAMS)
    archive = drive(tracker, sweep)
    assert tracker.finish("finished")
    return tracker.run_id, archive


def expected(sweep: SweepRecord, run_id: str, **changes: Any) -> SweepRecord:
    """Return the record that is read back: credentials blanked out."""
    trials = tuple(replace(t, result=replace(t.result, reason=names.redact(t.result.reason))) for t in sweep.trials)
    return replace(sweep, run_id=run_id, experiment=names.redact(sweep.experiment), trials=trials, **changes)


def children(uri: str, run_id: str) -> list[Any]:
    client = MlflowClient(uri)
    parent = client.get_run(run_id)
    return list(client.search_runs([parent.info.experiment_id], f"tags.`{names.PARENT}` = '{run_id}'", max_results=5000))
