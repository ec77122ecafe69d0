"""`bitfront measure`: the time of picked policies beside float32, in a real runtime on this machine."""

import json
from typing import Annotated

import typer

from search.cli.completion import policy_names
from search.cli.options import PICK_HELP, AsJson, ExperimentName, SweepName, Trust, Uri
from search.cli.table import Column, print_table
from search.cli.terminal import say
from search.config.store import DEFAULT_URI
from search.records.selection import SUGGESTED
from search.tracking.reading import LATEST


def measure_command(
    sweep: SweepName = LATEST,
    pick: Annotated[list[str] | None, typer.Option("--pick", help=f"{PICK_HELP} May be repeated.", autocompletion=policy_names)] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option("--runtime", help="onnxruntime, openvino, executorch, litert or torch; may be repeated. Default: onnxruntime."),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of the runtime.")] = 1,
    repeats: Annotated[int, typer.Option("--repeats", min=3, help="Calls of each file, in turns; more where they are short.")] = 30,
    uri: Uri = DEFAULT_URI,
    mlflow_experiment: ExperimentName = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Time picked policies against float32 in a real runtime, and write the times to the sweep's record; its page and cards show them.

    Example: `bitfront measure digits-auto-1124-101500 --pick suggested --runtime openvino`
    """
    from search.exporters.flow import open_bundle
    from search.exporters.measuring import measure
    from search.exporters.runtimes import runtime as named
    from search.records import timing
    from search.tracking.measured import write_timings

    targets = [named(name) for name in dict.fromkeys(runtime or ["onnxruntime"])]
    rows, report = [], []
    for choice in dict.fromkeys(pick or [SUGGESTED]):
        bundle = open_bundle(uri, sweep, choice, mlflow_experiment, trust=trust)
        timings = [measure(bundle, target, threads, repeats) for target in targets]
        entries = {taken.key: taken.to_json() for taken in timings}
        write_timings(uri, bundle.record.run_id, mlflow_experiment, {bundle.trial.number: entries})
        rows += [timing.row(bundle.policy.id, entry) for entry in entries.values()]
        report += [{"id": bundle.policy.id, "trial": bundle.trial.number, **entry} for entry in entries.values()]
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    texts = {name: tuple(str(row[name]) for row in rows) for name in rows[0]}
    left = ("policy", "runtime", "verdict")
    columns = [
        Column(name, cells, int(name == "integer layers"), left=name in left, text=name == "verdict") for name, cells in texts.items()
    ]
    print_table("one example, least of the repeats", columns)
    say("recorded; the page of `bitfront show` and the cards of `bitfront export` have these times")
