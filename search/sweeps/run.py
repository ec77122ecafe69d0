"""Run a sweep from start to end, or take one up again: setup, searcher, backend, record, the final front on the test split."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import cast

from quant_core.spec.size import float_bytes
from quant_core.util.errors import BitfrontError
from quant_core.util.registry import resolve
from search import tracking
from search.config.experiment import Experiment
from search.config.files import dumps, loads
from search.problem.problem import Problem, Searcher
from search.records.front import keeps_quality
from search.records.record import SweepRecord
from search.searchers import build, present_options
from search.sweeps.backend import BACKENDS, Backend, BackendContext
from search.sweeps.context import SweepContext, check_fingerprints, open_context
from search.sweeps.final import evaluate_front_on_test
from search.sweeps.interrupt import StopSignal, Timer, resume_hint
from search.sweeps.memory import MemoryRecord, RunRecord
from search.sweeps.outcome import SweepOutcome, Timings
from search.sweeps.phases import LogMode, Phases
from search.sweeps.progress import Progress
from search.sweeps.quality import quality_limits, reference_point
from search.sweeps.setup import Setup
from search.sweeps.sweep import Sweep
from search.sweeps.ties import summary
from search.sweeps.trust import remember, require_trust


class EveryTrialFailedError(BitfrontError):
    """No trial of a sweep ended well."""


def start(
    experiment: Experiment,
    log: LogMode = "auto",
    *,
    context: SweepContext | None = None,
    recorded: bool = True,
    require: Callable[[Setup], None] = lambda _setup: None,
) -> SweepOutcome:
    """Run a new sweep.

    Args:
        experiment: what to do.
        log: how progress is shown.
        context: what was made of the experiment already; None makes it.
        require: refuses a setup before the first trial, as `search.exporters.support.require_formats` does.
        recorded: keep the record at the experiment's `track.uri`; otherwise the outcome is all that there is of the sweep.

    Raises:
        InputError: the experiment does not fit the network, the device, the data or the formats of the export.
        BitfrontError: the float network fails, or every trial failed.
    """
    begun = time.perf_counter()
    experiment = _with_present_names(experiment)
    phases = Phases(log)
    with _told(phases, "nothing was recorded"):
        if context is None:
            context = open_context(experiment, report=phases)
        context = replace(context, setup=replace(context.setup, experiment=experiment))
        require(context.setup)
        ties = [summary(context.setup.ties)] if context.setup.ties else []
        for told in (context.setup.coverage, *ties, *context.setup.dropped):
            phases(str(told), 0, 0)
        phases("float network on validation", 0, 0)
        baseline = {f"{name}_valid": value for name, value in context.evaluator.float_metrics("valid").items()}
        baseline |= context.evaluator.counts("valid")
        context.evaluator.check_split("test")
        baseline["weight_bytes"] = float_bytes(context.setup.layers)
        baseline["left_in_float_bytes"] = sum(context.setup.coverage.left.values())
        problem = context.problem(baseline)
    searcher, backend = _searcher(experiment, problem), _backend(experiment)
    header = _header(context.setup, problem, baseline)
    tracker: RunRecord = MemoryRecord(header)
    if recorded:
        tracker = tracking.start(experiment.track.uri, experiment.track.experiment, header, _params(experiment))
        remember(tracker.sweep)
    hint = resume_hint(tracker.sweep.name if recorded else "", experiment.track.uri)
    with _told(phases, hint), _closed_on_error(tracker):
        return _finish(context, _sweep(context.setup, problem, searcher, header, tracker), backend, tracker, begun, phases, hint)


def resume(
    uri: str,
    ref: str,
    experiment_name: str | None = None,
    log: LogMode = "auto",
    *,
    context: SweepContext | None = None,
    trust: bool = False,
) -> SweepOutcome:
    """Continue a stopped or killed sweep to its trial count.

    Args:
        uri, ref, experiment_name: which sweep.
        log: how progress is shown.
        context: what was made of its experiment already; None makes it.
        trust: code that the record names may run, although the sweep was not started here.

    Raises:
        InputError: no such sweep, or it is not trusted, or weights, data or space are not those of the sweep.
        BitfrontError: as `start`; or the searcher is not the one that was recorded.
    """
    begun = time.perf_counter()
    recorded = tracking.read(uri, ref, experiment_name)
    require_trust(recorded, trust, task_given=context is not None)
    phases = Phases(log)
    hint = resume_hint(recorded.name, uri)
    with _told(phases, hint):
        context = context or open_context(loads(recorded.experiment, f"experiment of sweep {recorded.name}"), report=phases)
        check_fingerprints(recorded, context.setup)
    problem = context.problem(recorded.baseline)
    searcher, backend = _searcher(context.setup.experiment, problem), _backend(context.setup.experiment)
    tracker = tracking.open(uri, experiment_name, recorded.run_id)
    with _told(phases, hint), _closed_on_error(tracker):
        sweep = _sweep(context.setup, problem, searcher, recorded, tracker)
        sweep.replay(tracker.sweep.trials)
        return _finish(context, sweep, backend, tracker, begun, phases, hint)


def _with_present_names(experiment: Experiment) -> Experiment:
    """Return the experiment as it is recorded: options that bear a former name with their present one."""
    options = present_options(experiment.search.searcher, experiment.search.options)
    return experiment.model_copy(update={"search": experiment.search.model_copy(update={"options": options})})


def _searcher(experiment: Experiment, problem: Problem) -> Searcher:
    section = experiment.search
    return build(section.searcher, problem, section.seed, section.trials, section.options)


def _backend(experiment: Experiment) -> Backend:
    return cast(Backend, resolve(BACKENDS, "backend", experiment.run.backend))


def _sweep(setup: Setup, problem: Problem, searcher: Searcher, header: SweepRecord, tracker: RunRecord) -> Sweep:
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
        evaluate.top_k,
        evaluate.start == "nearest",
        keeps=lambda figures: keeps_quality(figures, header),
    )


def _header(setup: Setup, problem: Problem, baseline: Mapping[str, float]) -> SweepRecord:
    """Return the record of a sweep before its first trial.

    The reference point of the hypervolume is 1 for the error (of a metric without a worst value four times the float network's), four
    times the float network's for the loss (at least 1), and 1.05 times the most expensive policy of the space for every cost.
    """
    experiment = setup.experiment
    stamp = datetime.now().strftime("%m%d-%H%M%S")
    name = experiment.name or f"{experiment.task.name.rpartition(':')[2]}-{experiment.search.searcher.rpartition(':')[2]}-{stamp}"
    quality = reference_point(next(iter(setup.task.infos), None), baseline)
    reference = {metric: quality.get(metric) or 1.05 * problem.max_cost(metric) for metric in experiment.device.objectives}
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
        metrics=setup.task.infos,
        quality_limits=quality_limits(experiment.device, setup.task.infos, baseline),
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


@contextmanager
def _told(phases: Phases, hint: str) -> Iterator[None]:
    """Say in which phase Ctrl-C ended the block, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        phases.interrupted(hint)
        raise


@contextmanager
def _closed_on_error(tracker: RunRecord) -> Iterator[None]:
    """Send what is recorded and set the status where anything goes wrong; the sweep can be resumed."""
    try:
        yield
    except BaseException as error:
        tracker.finish("failed" if isinstance(error, EveryTrialFailedError) else "stopped")
        raise


@contextmanager
def _sampled(tracker: RunRecord, every_s: float) -> Iterator[None]:
    """Record the load of this machine within the block, where the sweep is recorded and asks for it."""
    if isinstance(tracker, MemoryRecord) or not every_s:
        yield
        return
    from search.tracking.machine import sampled

    with sampled(cast("tracking.Tracker", tracker), every_s):
        yield


def _finish(
    context: SweepContext, sweep: Sweep, backend: Backend, tracker: RunRecord, begun: float, phases: Phases, hint: str
) -> SweepOutcome:
    """Drive the sweep to its end, judge the front on the test split, close the record; `hint` says how one that is stopped goes on."""
    phases.sweep = tracker.sweep.name
    looped, evaluated, section = time.perf_counter(), _evaluation_s(sweep), context.setup.experiment.run
    sampling = _sampled(tracker, context.setup.experiment.track.system_metrics_s)
    phases("trials", sweep.told, sweep.planned)
    stop = StopSignal(lambda: phases.stopping(sweep.open_trials, hint))
    with sampling, stop as stopping, Progress(sweep, section.at_once, phases.mode, phases.console, name=phases.sweep) as progress:
        timer = Timer(section.minutes)
        work = BackendContext(context.setup.experiment, context.evaluator, progress.update, lambda: stopping() or timer.over, phases, hint)
        backend(sweep, work)
    loop_s = time.perf_counter() - looped
    status = "finished" if sweep.done else "stopped"
    if sweep.told and sweep.failed == sweep.told:
        raise EveryTrialFailedError(f"every trial failed; the first: {sweep.records[min(sweep.records)].result.reason}")
    tested = time.perf_counter()
    if sweep.done:
        evaluate_front_on_test(context.evaluator, sweep, tracker, phases)
    record = replace(tracker.sweep, status=status, trials=tuple(sweep.records[number] for number in sorted(sweep.records)))
    phases("report", 0, 0)
    _publish(tracker, record)
    test_s = time.perf_counter() - tested
    _measure(tracker, {"calibration_passes": context.evaluator.engines.calibration_passes})
    complete = tracker.finish(status)
    for total, counts in zip((work.weights, work.ranges), context.evaluator.engines.counts(), strict=True):
        total.add(counts)
    timings = Timings(
        total_s=time.perf_counter() - begun,
        loop_s=loop_s,
        evaluation_s=_evaluation_s(sweep) - evaluated,
        search_s=sweep.search_s,
        tracking_s=tracker.blocked_s,
        test_s=test_s,
        workers=section.at_once,
        retried=sweep.retried,
        statistics_bytes=context.evaluator.engines.statistics_bytes,
        sensitivity_evaluations=context.sensitivity.evaluations,
        weights=work.weights,
        ranges=work.ranges,
        calibration_passes=context.evaluator.engines.calibration_passes,
    )
    return SweepOutcome(record, timings, complete)


def _publish(tracker: RunRecord, record: SweepRecord) -> None:
    """Put the report of a sweep that is recorded beside its record."""
    if not isinstance(tracker, MemoryRecord):
        from search.report.publish import publish
        from search.sweeps.layer_figures import layer_figures

        publish(cast("tracking.Tracker", tracker), record, layer_figures(record))


def _measure(tracker: RunRecord, figures: Mapping[str, float]) -> None:
    """Keep figures of the whole run on the parent run of a sweep that is recorded."""
    if not isinstance(tracker, MemoryRecord):
        cast("tracking.Tracker", tracker).measure(figures)


def _evaluation_s(sweep: Sweep) -> float:
    """Return the seconds that recorded evaluations took; a repeat took none."""
    return sum(record.result.seconds for record in sweep.records.values() if record.repeated < 0)
