"""Options that several commands share."""

from typing import Annotated, Literal

import typer

from search.cli.completion import sweep_names
from search.config.store import DEFAULT_URI

PICK_HELP = (
    "suggested: the smallest policy within half a point of float at 90 % confidence; or max-drop=POINTS, knee, "
    "best-under:METRIC=LIMIT, a policy id or a trial number."
)

Uri = Annotated[str, typer.Option("--uri", envvar="MLFLOW_TRACKING_URI", help=f"MLflow tracking uri; default {DEFAULT_URI} here.")]
ExperimentName = Annotated[str | None, typer.Option("--experiment", help="MLflow experiment; needed where several hold the name.")]
SweepName = Annotated[
    str,
    typer.Argument(
        metavar="[SWEEP]",
        help="Name, beginning of a name or MLflow run id of the sweep; by default the latest one.",
        autocompletion=sweep_names,
    ),
]
Log = Annotated[
    Literal["auto", "plain", "json"], typer.Option("--log", help="Progress: a live line on a terminal (auto), plain lines, or JSON lines.")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Let the code run that the record names (its task, ...), although the sweep was not started here.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Device = Annotated[str, typer.Option("--device", help="Where networks run: auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16", ""], typer.Option("--dtype", help="Of matrix products when a policy is measured.")
]
CalibFrom = Annotated[
    Literal["data", "batch_norms"], typer.Option("--calib-from", help="Calibration inputs: the task's data, or made of batch norms.")
]
Threads = Annotated[int | None, typer.Option("--threads", min=0, help="Torch threads; 0: torch's own choice.")]


def run_changes(device: str, dtype: str, threads: int | None) -> dict[str, object]:
    """Return the values of `[run]` that stand on the command line."""
    return {key: value for key, value in (("device", device), ("dtype", dtype), ("threads", threads)) if value not in ("", None)}
