"""Options that several commands share."""

from typing import Annotated, Literal

import typer

DEFAULT_URI = "sqlite:///mlflow.db"

Uri = Annotated[str, typer.Option("--uri", envvar="MLFLOW_TRACKING_URI", help=f"MLflow tracking uri; default {DEFAULT_URI} here.")]
ExperimentName = Annotated[str | None, typer.Option("--experiment", help="MLflow experiment; needed where several hold the name.")]
SweepName = Annotated[
    str, typer.Argument(metavar="[SWEEP]", help="Name, beginning of a name or MLflow run id of the sweep; by default the latest one.")
]
Log = Annotated[
    Literal["auto", "plain", "json"], typer.Option("--log", help="Progress: a live line on a terminal (auto), plain lines, or JSON lines.")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Let the code run that the record names (its task, ...), although the sweep was not started here.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
