"""`bitfront sweep` and `bitfront resume`: run, show progress, say where to look. The last line on standard output is `NAME RUN_ID`."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli.front_table import print_short_front
from search.cli.json_lines import json_lines
from search.cli.options import Device, Dtype, ExperimentName, Log, SweepName, Threads, Trust, Uri, run_changes
from search.cli.terminal import say, terminal
from search.config.files import loads
from search.config.schedulers import RACE
from search.config.store import DEFAULT_URI
from search.records.front import front_members
from search.records.selection import suggestion
from search.records.summary import examples_run
from search.records.units import shown
from search.tracking.names import redact
from search.tracking.reading import LATEST

if TYPE_CHECKING:
    from search.records.record import SweepRecord
    from search.sweeps.outcome import SweepOutcome, Timings
    from search.sweeps.phases import LogMode


def sweep_command(
    experiment: Annotated[
        Path, typer.Argument(help="An experiment file (`bitfront init` writes a commented one), or the name of one that ships: digits.")
    ],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes to the file, as section.key=value.")] = None,
    log: Log = "auto",
    device: Device = "",
    dtype: Dtype = "",
    threads: Threads = None,
) -> None:
    """Run a sweep: uniform policies first, then the searcher's. Ctrl-C stops after the running trial; `bitfront resume` continues.

    Example: `bitfront sweep digits search.trials=40 search.searcher=tpe`
    """
    from search.sweeps.phases import Phases

    Phases(log)(f"starting the sweep of {experiment}", 0, 0)  # what follows imports torch, which takes seconds
    from search.config.files import load
    from search.exporters.required import require_formats
    from search.sweeps.run import start

    changes = [f"run.{key}={value}" for key, value in run_changes(device, dtype, threads).items()]
    loaded = load(experiment, [*(overrides or []), *changes])
    with json_lines(log):
        _close(start(loaded, log, require=require_formats), loaded.track.uri, log)


def resume_command(
    sweep: SweepName = LATEST,
    uri: Uri = DEFAULT_URI,
    mlflow_experiment: ExperimentName = None,
    log: Log = "auto",
    trust: Trust = False,
) -> None:
    """Continue a stopped or killed sweep to its trial count, without repeating or losing a finished trial.

    Example: `bitfront resume digits-auto-1124-101500`
    """
    from search.sweeps.phases import Phases

    Phases(log)(f"starting to resume {redact(sweep)}", 0, 0)  # as in `sweep`
    from search.sweeps.run import resume

    with json_lines(log):
        _close(resume(uri, sweep, mlflow_experiment, log, trust=trust), uri, log)


def _close(outcome: "SweepOutcome", uri: str, log: "LogMode") -> None:
    """Print the summary to standard error and the sweep's name and run id to standard output."""
    record = outcome.record
    if log == "json":
        say(json.dumps(_summary(outcome, uri)), stderr=True)
    else:
        _print_summary(outcome, uri)
    say(f"{record.name} {record.run_id}")
    untested = record.status == "finished" and _say_untested(record, uri, log)
    if not outcome.complete and log != "json":
        left = "the rest is kept in .bitfront/, and this command ends with exit code 1."
        say(f"MLflow does not have everything, see above: {left}", stderr=True)
    if untested or not outcome.complete:
        raise typer.Exit(1)


def _say_untested(record: "SweepRecord", uri: str, log: "LogMode") -> bool:
    """Say which members of the front failed on the test split, and how to judge them again; tell whether there are any."""
    untested = [trial for trial in front_members(record) if not trial.test]
    command = f"bitfront resume {record.name}{_where(uri)}"
    for trial in untested:
        if log == "json":
            entry = {"sweep": record.name, "trial": trial.number, "split": "test", "reason": trial.result.reason, "next": command}
            say(json.dumps(entry), stderr=True)
        else:
            say(f"sweep {record.name}, trial {trial.number} of the front failed on the {trial.result.reason}", stderr=True)
    if untested and log != "json":
        say(f"these members have no figures on the test split. Mend what failed, then judge them again: {command}", stderr=True)
    return bool(untested)


def _where(uri: str) -> str:
    return "" if uri == DEFAULT_URI else f" --uri {redact(uri)}"


def _summary(outcome: "SweepOutcome", uri: str) -> dict[str, object]:
    """Return the last JSON line: how the sweep ended, its front, what is suggested, where the time went, what to type."""
    record, members = outcome.record, front_members(outcome.record)
    chosen = suggestion(record, members)
    return {
        "sweep": record.name,
        "run_id": record.run_id,
        "status": record.status,
        "trials": len(record.trials),
        "failed": sum(trial.result.failed for trial in record.trials),
        "front": [trial.policy.id for trial in members],
        "suggested": chosen.trial.policy.id if chosen else None,
        "why": chosen.note if chosen else "",
        "examples": dict(zip(("evaluated", "without_stops"), examples_run(record), strict=True)),
        "recorded": outcome.complete,
        "timings": dataclasses.asdict(outcome.timings),
        "next": _next(record, uri),
    }


def _print_summary(outcome: "SweepOutcome", uri: str) -> None:
    """Print how the sweep ended, where the time went, the front in short, and the commands to type, one per line."""
    console = terminal(stderr=True, soft_wrap=True)
    record, timings = outcome.record, outcome.timings
    failed = [trial for trial in record.trials if trial.result.failed]
    repeated = sum(trial.repeated >= 0 for trial in record.trials)
    early = sum(trial.result.status == "stopped" for trial in record.trials)
    also = f", {early} stopped early" if early else ""
    counts = f"{len(failed)} failed, {repeated} repeated{also}"
    console.print(f"{record.name}: {len(record.trials)} trials ({counts}), {record.status}")
    for trial in failed[:3]:
        console.print(f"  trial {trial.number} failed: {trial.result.reason}")
    if loads(record.experiment).run.scheduler == RACE:
        seen, without = examples_run(record)
        console.print(f"validation examples: {seen:,} evaluated, {without:,} without racing")
    for line in _timing_lines(timings):
        console.print(line)
    print_short_front(record)
    console.print("next:")
    for command in _next(record, uri):
        console.print(f"  {command}")


def _timing_lines(timings: "Timings") -> tuple[str, str]:
    """Say where the time went, and what the caches saved."""
    of = f" on {timings.workers} workers" if timings.workers > 1 else ""
    loop = f"evaluation {timings.evaluation_s:.1f}{of}, search {timings.search_s:.1f}, tracking {timings.tracking_s:.2f}"
    loop += f", idle {timings.idle_s:.1f}"
    weights, ranges = timings.weights, timings.ranges
    return (
        f"seconds: {timings.total_s:.1f} in all; trials {timings.loop_s:.1f}: {loop}; test split and report {timings.test_s:.1f}; "
        f"{timings.retried} attempts made again",
        f"caches: weights {weights.hits} hits, {weights.misses} misses, {weights.evictions} evicted, "
        f"{shown('cache_bytes', weights.bytes)} in memory, {shown('cache_bytes', weights.spilled)} on disk; "
        f"statistics {shown('cache_bytes', timings.statistics_bytes)}, "
        f"activation ranges {ranges.hits} hits, {ranges.misses} misses; "
        f"{timings.calibration_passes} calibration passes, {timings.sensitivity_evaluations} forward passes for sensitivities",
    )


def _next(record: "SweepRecord", uri: str) -> tuple[str, ...]:
    """Return the commands to type now, as they are to be typed."""
    where = _where(uri)
    if record.status != "finished":
        return (f"bitfront resume {record.name}{where}",)
    chosen = suggestion(record, front_members(record))
    pick = f" --pick {chosen.trial.policy.id}" if chosen else ""
    return (
        f"bitfront front {record.name}{where}",
        f"bitfront ui --uri {redact(uri)}",
        f"bitfront export {record.name}{where}{pick} --out FOLDER",
    )
