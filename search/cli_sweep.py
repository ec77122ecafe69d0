"""`bitfront sweep` and `bitfront resume`: run, show progress, say where to look. The last line on standard output is `NAME RUN_ID`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from search.options import DEFAULT_URI, ExperimentName, Log, Uri
from search.tracking.names import redact

if TYPE_CHECKING:
    from search.launch import Ended


def sweep_command(
    experiment: Annotated[Path, typer.Argument(help="An experiment file; `bitfront init` writes a commented one.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes to the file, as section.key=value.")] = None,
    log: Log = "auto",
) -> None:
    """Run a sweep: uniform policies first, then the searcher's. Ctrl-C stops after the running trial; `bitfront resume` continues.

    Example: `bitfront sweep examples/digits.toml search.trials=40 search.searcher=tpe`
    """
    from search.experiment_file import load
    from search.launch import start

    loaded = load(experiment, overrides or [])
    _close(start(loaded, log), loaded.track.uri)


def resume_command(
    sweep: Annotated[str, typer.Argument(help="The sweep's name or its MLflow run id.")],
    uri: Uri = DEFAULT_URI,
    experiment: ExperimentName = None,
    log: Log = "auto",
) -> None:
    """Continue a stopped or killed sweep to its trial count, without repeating or losing a finished trial.

    Example: `bitfront resume digits-auto-1124-101500`
    """
    from search.launch import resume

    _close(resume(uri, sweep, experiment, log), uri)


def _close(ended: "Ended", uri: str) -> None:
    """Print the summary to standard error and the sweep's name and run id to standard output."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    record, spent = ended.record, ended.spent
    failed = [trial for trial in record.trials if trial.result.failed]
    repeated = sum(trial.repeated >= 0 for trial in record.trials)
    early = sum(trial.result.status == "stopped" for trial in record.trials)
    also = f", {early} stopped early" if early else ""
    state = "finished" if record.status == "finished" else f"stopped; `bitfront resume {record.name}` continues it"
    console.print(f"{record.name}: {len(record.trials)} trials ({len(failed)} failed, {repeated} repeated{also}), {state}", markup=False)
    for trial in failed[:3]:
        console.print(f"  trial {trial.number} failed: {trial.result.reason}", markup=False)
    counts = spent.weight_cache
    idle = spent.loop_s - spent.search_s - spent.tracking_s - min(spent.evaluation_s, spent.loop_s)
    evaluation = f"evaluation {spent.evaluation_s:.1f} (over all workers)"
    driver = f"search {spent.search_s:.1f}, tracking {spent.tracking_s:.2f}, idle {max(idle, 0.0):.1f}"
    console.print(
        f"seconds: {spent.total_s:.1f} in all; trials {spent.loop_s:.1f}: {evaluation}, {driver}; test split and report {spent.test_s:.1f}",
        markup=False,
    )
    console.print(
        f"caches: weights {counts.hits} hits, {counts.misses} misses, {counts.evictions} evicted, {counts.bytes / 2**20:.1f} MiB; "
        f"statistics {spent.statistics_bytes / 2**20:.1f} MiB; {spent.sensitivity_evaluations} forward passes for sensitivities",
        markup=False,
    )
    if not ended.complete:
        console.print(
            "MLflow does not have everything yet; the rest is kept in .bitfront/ and sent by the next bitfront command.", markup=False
        )
    console.print(f"next: bitfront front {record.name} | bitfront ui --uri {redact(uri)} | bitfront export {record.name} --pick knee")
    typer.echo(f"{record.name} {record.run_id}")
