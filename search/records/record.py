"""The record of a sweep, as plain data: one `TrialRecord` per trial, one `SweepRecord` for the whole."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from quant_core.spec.policy import Policy
from search.records.result import Result
from search.tasks.metrics.info import MetricInfo

T = TypeVar("T")
ACCURACY = MetricInfo("accuracy", True, "%", 1.0, 1.0)
"""The metric of a task without metrics: the mean of its scores."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a sweep.

    Attributes:
        number: 0, 1, 2, ... in the order of proposal; unique in the sweep.
        origin: "baseline" for the uniform policies, otherwise the searcher's name.
        values: the point in the space.
        policy: what was evaluated.
        result: how it went.
        ask_index: position of the ask in the sweep's sequence of asks and tells.
        tell_index: position of the tell in that sequence. Resume replays the sequence, so a searcher ends in the same state.
        repeated: number of the earlier trial whose result this one repeats (a memo hit), or -1.
        test: metrics on the test split, only for members of the final front.
        after: numbers of trials, one after the other: its training started from the weights of the last one, that one's from those of the
            one before, the first one's from the float weights. Empty: from the float weights, or not trained.
    """

    number: int
    origin: str
    values: tuple[int, ...]
    policy: Policy
    result: Result
    ask_index: int
    tell_index: int
    repeated: int = -1
    test: Mapping[str, float] = field(default_factory=dict)
    after: tuple[int, ...] = ()


@dataclass(frozen=True)
class SweepRecord:
    """The record of a whole sweep.

    Attributes:
        name, run_id: both identify it; run_id is the MLflow run id of the parent run.
        experiment: the resolved experiment file, TOML text.
        fingerprints: name -> hash of what the sweep is bound to (weights, data, space).
        objectives: minimized metrics, "error" first.
        limits: metric -> upper limit in SI units.
        reference: metric -> reference point of the hypervolume.
        baseline: figures of the float network: accuracy_valid, accuracy_test, weight_bytes, left_in_float_bytes, ...
        status: "running", "stopped", "finished" or "failed".
        trials: by number.
        metrics: the task's figures, the one that `error` is made of first; empty: judged by accuracy.
        quality_limits: metric -> the worst value that a policy of the front may have on validation.
        measured: number of a trial -> its times in real runtimes, as `bitfront measure` recorded them.
    """

    name: str
    run_id: str
    experiment: str
    fingerprints: Mapping[str, str]
    objectives: tuple[str, ...]
    limits: Mapping[str, float]
    reference: Mapping[str, float]
    baseline: Mapping[str, float]
    status: str
    trials: tuple[TrialRecord, ...] = ()
    metrics: tuple[MetricInfo, ...] = ()
    quality_limits: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[int, tuple[Mapping[str, object], ...]] = field(default_factory=dict)

    def judged(self, split: str) -> tuple[float, str]:
        """Return how many figures the metric of "valid" or "test" is the mean of, 0 where that is not recorded, and what they are."""
        predictions = self.baseline.get(f"predictions_{split}", 0.0)
        return (predictions, "predictions") if predictions else (self.baseline.get(f"examples_{split}", 0.0), "examples")

    def once(self, name: str, derive: Callable[["SweepRecord"], T]) -> T:
        """Return a figure derived from the record, which never changes: kept with it, but no field, so equality and JSON are without."""
        attributes = vars(self)
        if name not in attributes:
            attributes[name] = derive(self)
        derived: T = attributes[name]
        return derived

    @property
    def infos(self) -> tuple[MetricInfo, ...]:
        """The task's figures; the accuracy where it has no metrics."""
        return self.metrics or (ACCURACY,)
