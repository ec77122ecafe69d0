"""`bitfront front`, `show`, `compare`, `ui`: reading what sweeps left. What is heavy is imported only when a command needs it."""

import json
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quant_core.util.errors import InputError
from quant_core.util.files import write_text
from quant_core.util.process import no_collector
from search.cli.completion import policy_names, sweep_names
from search.cli.front_table import print_front
from search.cli.options import PICK_HELP, AsJson, ExperimentName, SweepName, Uri
from search.cli.table import Column, print_table
from search.cli.terminal import on_a_desktop, say, terminal
from search.config.key_value import key_value
from search.config.store import DEFAULT_URI
from search.records.front import all_rows, front_members, front_rows, knee_number, pick, row_of
from search.records.selection import SUGGESTED
from search.records.units import shown
from search.tasks.metrics.info import MetricInfo
from search.tracking import names, read, recover
from search.tracking.reading import LATEST, find_sweep

if TYPE_CHECKING:
    from search.records.compare import Comparison


def front_command(
    sweep: SweepName = LATEST,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.html", help="Write an interactive page that works offline.")] = None,
    as_json: AsJson = False,
    everything: Annotated[bool, typer.Option("--all", help="Every trial, each with its status.")] = False,
    uri: Uri = DEFAULT_URI,
    mlflow_experiment: ExperimentName = None,
) -> None:
    """Show the Pareto front of a sweep, also while it runs.

    Example: `bitfront front digits-tpe --plot front.html`
    """
    run_id = find_sweep(uri, sweep, mlflow_experiment).run_id
    recover(uri, run_id)
    with no_collector():  # none of what is read, a hundred objects per trial, is garbage before the end
        record = read(uri, run_id)
        members = front_members(record)
        rows = all_rows(record, members) if everything else front_rows(record, members)
        if plot:
            from search.report.page import sweep_page
            from search.sweeps.layer_figures import layer_figures

            write_text(plot, sweep_page(record, layers=layer_figures(record)))
        if as_json:
            from search.records.summary import written_rows

            _print_json(written_rows(record, members, rows))
            return
        print_front(record, rows, everything=everything)
    if plot:
        say(f"wrote {plot}", stderr=True)


def show_command(
    sweep: SweepName = LATEST,
    policy: Annotated[str, typer.Argument(metavar="[POLICY]", help=PICK_HELP, autocompletion=policy_names)] = SUGGESTED,
    as_json: AsJson = False,
    uri: Uri = DEFAULT_URI,
    mlflow_experiment: ExperimentName = None,
) -> None:
    """Show layer by layer what a policy quantizes, and how.

    Example: `bitfront show digits-tpe`
    """
    from quant_core.spec.policy import NONE

    record = read(uri, sweep, mlflow_experiment)
    trial = pick(record, policy)
    row = row_of(record, trial, knee_number(front_members(record), record.objectives))
    if as_json:
        _print_json(row | {"policy": trial.policy.to_json()})
        return
    say(f"policy {trial.policy.id}: trial {trial.number} of {record.name}, by {trial.origin}, {trial.result.fidelity}")
    if trial.policy.transform != NONE:
        say(f"network: {trial.policy.transform}")
    if not trial.policy.kv.is_float:
        say(f"KV cache: {trial.policy.kv}")
    weights, activations = (tuple(str(getattr(choice, slot)) for choice in trial.policy.values()) for slot in ("weight", "activation"))
    columns = [Column("layer", tuple(trial.policy), left=True, name=True), Column("weight", weights, left=True)]
    print_table("", [*columns, Column("activation", activations, 1, left=True)])
    console = terminal()
    for name, value in row.items():
        if isinstance(value, float):
            console.print(f"{name:>20}  {shown(name, value, record.metrics)}")


def compare_command(
    sweeps: Annotated[
        list[str],
        typer.Argument(metavar="SWEEP SWEEP ...", help="Names or MLflow run ids of two or more sweeps.", autocompletion=sweep_names),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE.html|FOLDER", help="Write a page that works offline; in a folder also the page of every sweep."
        ),
    ] = None,
    as_json: AsJson = False,
    budget: Annotated[
        list[str] | None, typer.Option("--budget", metavar="METRIC=LIMIT", help="A budget to judge at; may be repeated.")
    ] = None,
    choice: Annotated[str, typer.Option("--pick", help=f"Which policy of each to set side by side; {PICK_HELP}")] = SUGGESTED,
    log: Annotated[bool, typer.Option("--log", help="Also log the page and the figures to MLflow as a run.")] = False,
    uri: Uri = DEFAULT_URI,
    mlflow_experiment: ExperimentName = None,
) -> None:
    """Compare the fronts of sweeps: hypervolume, dominated share, best accuracy within budgets, layers. Nothing is written unless asked.

    Example: `bitfront compare digits-tpe digits-random --html compare.html`
    """
    from search.records.compare import compare
    from search.records.verdict import verdict
    from search.report.comparison import comparison_folder, comparison_page

    comparison = compare([read(uri, sweep, mlflow_experiment) for sweep in sweeps], _budgets(budget or []), choice)
    page, data = comparison_page(comparison), comparison.to_json() | {"verdict": verdict(comparison)}
    if html and html.suffix in (".html", ".htm"):
        write_text(html, page)
    elif html:
        for name, text in comparison_folder(comparison).items():
            write_text(html / name, text)
    run_id = _logged(uri, comparison, page, data) if log else ""
    if as_json:
        _print_json(data | ({"run_id": run_id} if log else {}))
        return
    say(verdict(comparison))
    for title, rows in _tables(data, comparison.sweeps[0].infos):
        _print_table(title, rows)
    written = ([f"logged as MLflow run {run_id}"] if log else []) + ([f"wrote {html}"] if html else [])
    if written:
        say("; ".join(written), stderr=True)


def _logged(uri: str, comparison: "Comparison", page: str, data: dict[str, object]) -> str:
    """Log a comparison to MLflow and return its run id."""
    from search.tracking.comparison import log_comparison

    ids = {name: sweep.run_id for name, sweep in zip(comparison.names, comparison.sweeps, strict=True)}
    figures = {f"hypervolume.{name}": volume for name, volume in zip(comparison.names, comparison.hypervolume, strict=True)}
    return log_comparison(uri, ids, figures, {"comparison.html": page, "comparison.json": json.dumps(data, indent=1)}, _note(figures))


def ui_command(
    sweep: Annotated[
        str | None, typer.Argument(metavar="[SWEEP]", help="Also print the address of this sweep's page.", autocompletion=sweep_names)
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    uri: Uri = DEFAULT_URI,
    mlflow_experiment: ExperimentName = None,
) -> None:
    """Start MLflow's web interface on the sweeps' store, on this machine only, and print where the fronts stand side by side.

    On a desktop the list of the sweeps is opened in the browser.

    Example: `bitfront ui digits-tpe`
    """
    from search.tracking.reading import sweeps
    from search.tracking.server import HOST, serve
    from search.tracking.view import link, sweeps_link

    rows = [find_sweep(uri, sweep, mlflow_experiment)] if sweep else sweeps(uri, mlflow_experiment)
    remote = uri.startswith(("http://", "https://"))
    base = names.redact(uri) if remote else f"http://{HOST}:{port}"
    process = None if remote else serve(uri, port)
    for experiment_id, title in {row.experiment_id: row.experiment for row in rows}.items():
        say(f"sweeps of experiment {title}: {sweeps_link(experiment_id, base)}")
        say(f"fronts of experiment {title}: {link(experiment_id, base)}")
    for row in rows if sweep else []:
        say(f"sweep {row.tags[names.SWEEP]}: {base}/#/experiments/{row.experiment_id}/runs/{row.run_id}?workflowType=machine_learning")
    first = rows[0] if rows else None
    if first is not None and on_a_desktop():
        webbrowser.open(sweeps_link(first.experiment_id, base))
    if process is None:
        return
    say("Ctrl-C ends it.")
    try:
        process.wait()
    except KeyboardInterrupt:
        pass
    finally:
        process.terminate()
        process.wait()


def _budgets(texts: list[str]) -> dict[str, list[float]]:
    budgets: dict[str, list[float]] = {}
    for text in texts:
        metric, limit = key_value(text, "--budget", "METRIC=LIMIT", "latency_s=0.002")
        try:
            budgets.setdefault(metric, []).append(float(limit))
        except ValueError:
            raise InputError(f"--budget {text!r} given; write METRIC=LIMIT in SI units, as in --budget latency_s=0.002.") from None
    return budgets


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=1))


def _tables(data: dict[str, object], infos: Sequence[MetricInfo]) -> list[tuple[str, list[dict[str, object]]]]:
    """Return the parts of a comparison as titled tables."""
    from search.report.comparison import attained_in_units

    shares, attained, layers = data["dominated_share"], data["attainment"], data["layers"]
    reference = data["reference"]
    corner = ", ".join(f"{name} = {shown(name, value)}" for name, value in reference.items()) if isinstance(reference, dict) else ""
    tables = [(f"sweeps; hypervolume: share of the box from 0 to {corner}", data["sweeps"])]
    if isinstance(shares, dict) and isinstance(attained, dict) and isinstance(layers, list):
        tables.append(
            ("share of each front (column) that the row's front equals or dominates", [{"front": a, **row} for a, row in shares.items()])
        )
        tables += [
            (f"best validation {infos[0].name} within {metric}", attained_in_units(metric, rows, infos))
            for metric, rows in attained.items()
        ]
        tables.append(("layers in which the picked policies differ", [_specs(row) for row in layers if not row["same"]]))
    return [(title, rows) for title, rows in tables if isinstance(rows, list)]


def _specs(row: dict[str, object]) -> dict[str, object]:
    """Return a layer's line with the specs of weight and activation as two words."""
    return {name: str(text).removeprefix("weight=").replace(",activation=", " ") for name, text in row.items()}


def _print_table(title: str, rows: list[dict[str, object]]) -> None:
    names_shown = [name for name in (rows[0] if rows else []) if name not in ("same", "run_id")]
    columns = []
    for i, name in enumerate(names_shown):
        texts = tuple(f"{row[name]:.5g}" if isinstance(row[name], float) else str(row[name]) for row in rows)
        spaced = any(" " in text for text in texts) and "layer" in names_shown
        columns.append(Column(name, texts, 0 if i < 3 else i, left=i == 0 or spaced or name == "picked", name=not spaced, text=spaced))
    if rows:
        say(title)
        print_table("", columns)


def _note(figures: dict[str, float]) -> str:
    return "\n".join(
        ["### Comparison", "", "| metric | value |", "|---|---|", *(f"| {key} | {value:.6g} |" for key, value in figures.items())]
    )
