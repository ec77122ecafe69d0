"""Run a sweep from start to end, or take one up again: setup, searcher, backend, record, the final front on the test split."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

from quant_core.spec.kv_cache import kv_cost
from quant_core.spec.quant_spec import FLOAT
from quant_core.spec.size import float_bytes
from quant_core.util.errors import BitfrontError
from quant_core.util.registry import resolve
from search import tracking
from search.config.experiment import Experiment
from search.records.record import SweepRecord
from search.searchers import present_options
from search.sweeps.backend import BACKENDS, Backend, BackendContext
from search.sweeps.beginning import searcher_of, sweep_of
from search.sweeps.context import SweepContext, open_context, reopened
from search.sweeps.final import evaluate_front_on_test
from search.sweeps.header import header_of, params_of
from search.sweeps.interrupt import StopSignal, Timer, resume_hint
from search.sweeps.memory import MemoryRecord, RunRecord
from search.sweeps.outcome import SweepOutcome, Timings
from search.sweeps.phases import LogMode, Phases
from search.sweeps.progress import Progress
from search.sweeps.setup import Setup
from search.sweeps.sweep import Sweep
from search.sweeps.ties import summary
from search.sweeps.trust import remember


class EveryTrialFailedError(BitfrontError):
    """No trial of a sweep ended well."""


def start(
    experiment: Experiment,
    log: LogMode = "auto",
    *,
    context: SweepContext | None = None,
    recorded: bool = True,
    require: Callable[[Setup], None] = lambda _setup: None,
    timer: Timer | None = None,
) -> SweepOutcome:
    """Run a new sweep.

    Args:
        experiment: what to do.
        log: how progress is shown.
        context: what was made of the experiment already; None makes it.
        require: refuses a setup before the first trial, as `search.exporters.support.require_formats` does.
        recorded: keep the record at the experiment's `track.uri`; otherwise the outcome is all that there is of the sweep.
        timer: of everything, the front on the test split too; None: of `run.minutes`, which the trials alone take.

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
        baseline |= kv_cost(context.setup.heads, FLOAT)
        baseline["left_in_float_bytes"] = sum(context.setup.coverage.left.values())
        problem = context.problem(baseline)
    searcher, backend = searcher_of(experiment, problem), _backend(experiment)
    header = header_of(context.setup, problem, baseline)
    tracker: RunRecord = MemoryRecord(header)
    if recorded:
        tracker = tracking.start(experiment.track.uri, experiment.track.experiment, header, params_of(experiment))
        remember(tracker.sweep)
    hint = resume_hint(tracker.sweep.name if recorded else "", experiment.track.uri)
    with _told(phases, hint), _closed_on_error(tracker):
        sweep = sweep_of(context.setup, problem, searcher, header, tracker)
        return _finish(context, sweep, backend, tracker, begun, phases, hint, timer)


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
    recorded = tracking.read_header(uri, ref, experiment_name)
    phases = Phases(log)
    hint = resume_hint(recorded.name, uri)
    with _told(phases, hint):
        context = reopened(recorded, context, phases, trust=trust)
    problem = context.problem(recorded.baseline)
    searcher, backend = searcher_of(context.setup.experiment, problem), _backend(context.setup.experiment)
    tracker = tracking.open(uri, experiment_name, recorded.run_id)
    with _told(phases, hint), _closed_on_error(tracker):
        sweep = sweep_of(context.setup, problem, searcher, recorded, tracker)
        sweep.replay(tracker.sweep.trials)
        return _finish(context, sweep, backend, tracker, begun, phases, hint)


def _with_present_names(experiment: Experiment) -> Experiment:
    """Return the experiment as it is recorded: options that bear a former name with their present one."""
    options = present_options(experiment.search.searcher, experiment.search.options)
    return experiment.model_copy(update={"search": experiment.search.model_copy(update={"options": options})})


def _backend(experiment: Experiment) -> Backend:
    return cast(Backend, resolve(BACKENDS, "backend", experiment.run.backend))


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
    context: SweepContext,
    sweep: Sweep,
    backend: Backend,
    tracker: RunRecord,
    begun: float,
    phases: Phases,
    hint: str,
    timer: Timer | None = None,
) -> SweepOutcome:
    """Drive the sweep to its end, judge the front on the test split, close the record; `hint` says how one that is stopped goes on."""
    phases.sweep = tracker.sweep.name
    looped, evaluated, section = time.perf_counter(), _evaluation_s(sweep), context.setup.experiment.run
    sampling = _sampled(tracker, context.setup.experiment.track.system_metrics_s)
    phases("trials", sweep.told, sweep.planned)
    stop = StopSignal(lambda: phases.stopping(sweep.open_trials, hint))
    with sampling, stop as stopping, Progress(sweep, section.at_once, phases.mode, phases.console, name=phases.sweep) as progress:
        over = _over(sweep, stopping, timer or Timer(section.minutes))
        work = BackendContext(context.setup.experiment, context.evaluator, progress.update, over, phases, hint)
        backend(sweep, work)
    loop_s = time.perf_counter() - looped
    if sweep.told and sweep.failed == sweep.told:
        raise EveryTrialFailedError(f"every trial failed; the first: {sweep.records[min(sweep.records)].result.reason}")
    tested = time.perf_counter()
    judged = sweep.done and evaluate_front_on_test(context.evaluator, sweep, tracker, phases, timer)
    status = "finished" if judged else "stopped"
    record = replace(tracker.sweep, status=status, trials=tuple(sweep.records[number] for number in sorted(sweep.records)))
    phases("report", 0, 0)
    _publish(tracker, record)
    test_s = time.perf_counter() - tested
    _measure(tracker, {"calibration_passes": context.evaluator.engines.calibration_passes})
    complete = tracker.finish(status)
    evaluated = _evaluation_s(sweep) - evaluated
    return SweepOutcome(record, _timings(context, sweep, work, tracker, (begun, loop_s, evaluated, test_s)), complete)


def _timings(
    context: SweepContext, sweep: Sweep, work: BackendContext, tracker: RunRecord, taken: tuple[float, float, float, float]
) -> Timings:
    """Return where the time went: `taken` is the moment of the begin, and the seconds of loop, evaluations and test split."""
    begun, loop_s, evaluation_s, test_s = taken
    engines = context.evaluator.engines
    for total, counts in zip((work.weights, work.ranges), engines.counts(), strict=True):
        total.add(counts)
    return Timings(
        total_s=time.perf_counter() - begun,
        loop_s=loop_s,
        evaluation_s=evaluation_s,
        search_s=sweep.search_s,
        tracking_s=tracker.blocked_s,
        test_s=test_s,
        workers=context.setup.experiment.run.at_once,
        retried=sweep.retried,
        statistics_bytes=engines.statistics_bytes,
        sensitivity_evaluations=context.sensitivity.evaluations,
        weights=work.weights,
        ranges=work.ranges,
        calibration_passes=engines.calibration_passes,
    )


def _over(sweep: Sweep, stopping: Callable[[], bool], timer: Timer) -> Callable[[], bool]:
    """Return the question of backends before every trial: was a stop asked for, or, once a trial has ended, is the time over?"""
    return lambda: stopping() or (sweep.told > 0 and timer.over)


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
