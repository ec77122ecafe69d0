"""Run a sweep from start to end, or take one up again: setup, searcher, backend, record, the final front on the test split."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import cast

import torch

from quant_core.spec.size import float_bytes
from quant_core.util.cache import CacheCounts
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.registry import resolve
from search import tracking
from search.config.experiment import Experiment
from search.config.files import dumps, loads
from search.evaluation.evaluator import Evaluator
from search.evaluation.sensitivity import Sensitivity
from search.problem.problem import Problem, Searcher
from search.records.record import SweepRecord
from search.report.publish import publish
from search.searchers import build
from search.sweeps.backend import BACKENDS, Backend, Work
from search.sweeps.final import judge
from search.sweeps.interrupt import StopSignal
from search.sweeps.progress import LogMode, Progress
from search.sweeps.setup import Setup, breeding, build_problem, choices_text, prepare, training_key
from search.sweeps.sweep import Sweep


class EveryTrialFailedError(BitfrontError):
    """No trial of a sweep ended well."""


@dataclass(frozen=True)
class Spent:
    """Where the time of a run went, in seconds, and what the caches saved.

    Attributes:
        total_s: wall time of the whole run.
        loop_s: wall time from the first trial to the last.
        evaluation_s: evaluating, summed over all workers.
        search_s: the searcher's proposing and learning.
        tracking_s: the driver's waiting for the record.
        test_s: the final front on the test split, and the report.
        workers: how many there were.
        retried: attempts that were made again.
        statistics_bytes: calibration statistics held in this process.
        sensitivity_evaluations: forward passes for sensitivities.
        weights, ranges: hits and misses over all processes: quantized weights, and ranges of activations.
    """

    total_s: float
    loop_s: float
    evaluation_s: float
    search_s: float
    tracking_s: float
    test_s: float
    workers: int
    retried: int
    statistics_bytes: int
    sensitivity_evaluations: int
    weights: CacheCounts
    ranges: CacheCounts

    @property
    def idle_s(self) -> float:
        """What is left of the loop when evaluation, shared evenly by the workers, the search and the record are taken off."""
        return max(0.0, self.loop_s - self.search_s - self.tracking_s - self.evaluation_s / self.workers)


@dataclass(frozen=True, eq=False)
class Ended:
    """A sweep that came to its end, or to a stop.

    Attributes:
        record: everything, trials included.
        spent: where the time went.
        complete: MLflow has every record (otherwise the rest waits in the spool).
    """

    record: SweepRecord
    spent: Spent
    complete: bool


def start(experiment: Experiment, log: LogMode = "auto") -> Ended:
    """Run a new sweep.

    Raises:
        InputError: the experiment does not fit the network, the device or the data.
        BitfrontError: the float network fails, or every trial failed.
    """
    begun = time.perf_counter()
    ready = ready_for(experiment)
    baseline = {f"{name}_valid": value for name, value in ready.evaluator.float_metrics("valid").items()}
    baseline["weight_bytes"] = float_bytes(ready.setup.layers)
    problem = ready.problem(baseline)
    searcher, backend = _searcher(experiment, problem), _backend(experiment)
    header = _header(ready.setup, problem, baseline)
    tracker = tracking.start(experiment.track.uri, experiment.track.experiment, header, _params(experiment))
    with _closed_on_error(tracker):
        return _finish(ready, _sweep(ready.setup, problem, searcher, header, tracker), backend, tracker, begun, log)


def resume(uri: str, ref: str, experiment_name: str | None = None, log: LogMode = "auto") -> Ended:
    """Continue a stopped or killed sweep to its trial count.

    Raises:
        InputError: no such sweep, or weights, data or space are not those of the sweep.
        BitfrontError: as `start`; or the searcher is not the one that was recorded.
    """
    begun = time.perf_counter()
    recorded = tracking.read(uri, ref, experiment_name)
    ready = ready_for(loads(recorded.experiment, f"experiment of sweep {recorded.name}"))
    check_fingerprints(recorded, ready.setup)
    problem = ready.problem(recorded.baseline)
    searcher, backend = _searcher(ready.setup.experiment, problem), _backend(ready.setup.experiment)
    tracker = tracking.open(uri, experiment_name, recorded.run_id)
    with _closed_on_error(tracker):
        sweep = _sweep(ready.setup, problem, searcher, recorded, tracker)
        sweep.replay(tracker.sweep.trials)
        return _finish(ready, sweep, backend, tracker, begun, log)


@dataclass(frozen=True, eq=False)
class Ready:
    """A setup with its evaluator and sensitivities."""

    setup: Setup
    evaluator: Evaluator
    sensitivity: Sensitivity

    def problem(self, baseline: Mapping[str, float]) -> Problem:
        """Return what the searcher sees; `baseline` holds the float network's `error_valid`."""
        return replace(build_problem(self.setup, float_error=baseline["error_valid"]), sensitivity=self.sensitivity)


def ready_for(experiment: Experiment) -> Ready:
    """Prepare everything that an experiment needs before its first trial."""
    if experiment.run.threads:
        torch.set_num_threads(experiment.run.threads)
    setup = prepare(experiment)
    evaluator = Evaluator(setup.task, setup.layers, experiment.evaluate, training_key(setup), breeding(experiment))
    prints, section = setup.fingerprints, experiment.evaluate
    key = repr((prints["weights"], prints["data"], choices_text(setup.space), section.calib, section.bias_correction, section.sensitivity))
    return Ready(setup, evaluator, Sensitivity(evaluator.engine, setup.space, evaluator.calib, key, section.sensitivity))


def _searcher(experiment: Experiment, problem: Problem) -> Searcher:
    section = experiment.search
    return build(section.searcher, problem, section.seed, section.trials, section.options)


def _backend(experiment: Experiment) -> Backend:
    return cast(Backend, resolve(BACKENDS, "backend", experiment.run.backend))


def _sweep(setup: Setup, problem: Problem, searcher: Searcher, header: SweepRecord, tracker: "tracking.Tracker") -> Sweep:
    section, evaluate = setup.experiment.search, setup.experiment.evaluate
    return Sweep(
        setup.space,
        problem,
        searcher,
        section.searcher,
        section.trials,
        header.objectives,
        tuple(header.reference[name] for name in header.objectives),
        tracker,
        evaluate.fidelity,
        evaluate.ladder,
        evaluate.climbers,
        evaluate.start == "nearest",
    )


def _header(setup: Setup, problem: Problem, baseline: Mapping[str, float]) -> SweepRecord:
    """Return what is known of a sweep before its first trial.

    The reference point of the hypervolume is 1 for the error, four times the float network's for the loss (at least 1), and 1.05 times
    the dearest policy of the space for every cost.
    """
    experiment = setup.experiment
    stamp = datetime.now().strftime("%m%d-%H%M%S")
    name = experiment.name or f"{experiment.task.name.rpartition(':')[2]}-{experiment.search.searcher.rpartition(':')[2]}-{stamp}"
    quality = {"error": 1.0, "loss": max(1.0, 4.0 * baseline["loss_valid"])}
    reference = {metric: quality.get(metric) or 1.05 * problem.dearest(metric) for metric in experiment.device.objectives}
    return SweepRecord(
        name,
        "",
        dumps(experiment),
        dict(setup.fingerprints),
        experiment.device.objectives,
        dict(problem.limits),
        reference,
        dict(baseline),
        "running",
    )


def _params(experiment: Experiment) -> dict[str, object]:
    """Return what the parent run shows: the names that sweeps are compared by, then the whole resolved experiment as `section.key`."""
    search = experiment.search
    tables = {name: table for name, table in experiment.model_dump(mode="json", exclude_none=True).items() if isinstance(table, dict)}
    resolved = {f"{section}.{key}": value for section, table in tables.items() for key, value in table.items()}
    return resolved | {
        "task": experiment.task.name,
        "device": experiment.device.name,
        "searcher": search.searcher,
        "trials": search.trials,
        "seed": search.seed,
        "fidelity": experiment.evaluate.fidelity,
        "ladder": " ".join(experiment.evaluate.ladder),
        "backend": experiment.run.backend,
    }


def check_fingerprints(recorded: SweepRecord, setup: Setup, names: Sequence[str] = ("weights", "data", "space")) -> None:
    """Refuse weights, data or a space other than what the sweep is bound to."""
    changed = [name for name in names if setup.fingerprints[name] != recorded.fingerprints[name]]
    if changed:
        hashes = ", ".join(f"{name}: recorded {recorded.fingerprints[name]}, now {setup.fingerprints[name]}" for name in changed)
        raise InputError(
            f"sweep {recorded.name!r} is bound to other {' and '.join(changed)} than what the experiment now gives ({hashes}). "
            f"A task must give the same every time (seed its training); restore what changed, or start a new sweep."
        )


@contextmanager
def _closed_on_error(tracker: "tracking.Tracker") -> Iterator[None]:
    """Send what is recorded and set the status where anything goes wrong; the sweep can be resumed."""
    try:
        yield
    except BaseException as error:
        tracker.finish("failed" if isinstance(error, EveryTrialFailedError) else "stopped")
        raise


def _finish(ready: Ready, sweep: Sweep, backend: Backend, tracker: "tracking.Tracker", begun: float, log: LogMode) -> Ended:
    """Drive the sweep to its end, judge the front on the test split, close the record."""
    from search.tracking.machine import sampled

    looped, evaluated, section = time.perf_counter(), _evaluation_s(sweep), ready.setup.experiment.run
    sampling = sampled(tracker, ready.setup.experiment.track.system_metrics_s)
    with sampling, StopSignal() as stopping, Progress(sweep, section.at_once, log) as progress:
        work = Work(ready.setup.experiment, ready.evaluator, progress.update, stopping)
        backend(sweep, work)
    loop_s = time.perf_counter() - looped
    status = "finished" if sweep.done else "stopped"
    if sweep.told and sweep.failed == sweep.told:
        raise EveryTrialFailedError(f"every trial failed; the first: {sweep.records[min(sweep.records)].result.reason}")
    tested = time.perf_counter()
    if sweep.done:
        judge(ready.evaluator, sweep, tracker)
    record = replace(tracker.sweep, status=status, trials=tuple(sweep.records[number] for number in sorted(sweep.records)))
    publish(tracker, record)
    test_s = time.perf_counter() - tested
    complete = tracker.finish(status)
    work.weights.add(ready.evaluator.engine.counts)
    work.ranges.add(ready.evaluator.engine.range_counts)
    spent = Spent(
        total_s=time.perf_counter() - begun,
        loop_s=loop_s,
        evaluation_s=_evaluation_s(sweep) - evaluated,
        search_s=sweep.search_s,
        tracking_s=tracker.blocked_s,
        test_s=test_s,
        workers=section.at_once,
        retried=sweep.retried,
        statistics_bytes=ready.evaluator.engine.statistics_bytes,
        sensitivity_evaluations=ready.sensitivity.evaluations,
        weights=work.weights,
        ranges=work.ranges,
    )
    return Ended(record, spent, complete)


def _evaluation_s(sweep: Sweep) -> float:
    """Return the seconds that recorded evaluations took; a repeat took none."""
    return sum(record.result.seconds for record in sweep.records.values() if record.repeated < 0)
