"""`bitfront study`: a recorded sweep as an Optuna study, for optuna-dashboard and Optuna's own plots."""

from typing import Annotated

import typer

from search.cli.options import ExperimentName, SweepName, Uri
from search.cli.terminal import say
from search.config.store import DEFAULT_URI
from search.tracking import read
from search.tracking.names import redact
from search.tracking.reading import LATEST


def study_command(
    sweep: SweepName = LATEST,
    storage: Annotated[str, typer.Option("--storage", help="Where Optuna keeps it: an SQLAlchemy address.")] = "sqlite:///optuna.db",
    name: Annotated[str, typer.Option("--name", help="Of the study; by default the sweep's.")] = "",
    uri: Uri = DEFAULT_URI,
    mlflow_experiment: ExperimentName = None,
) -> None:
    """Write a sweep as an Optuna study: objectives, limits as constraints, the policy as parameters, every trial that ended.

    Example: `bitfront study digits-tpe --storage sqlite:///optuna.db`, then `optuna-dashboard sqlite:///optuna.db`
    """
    from search.searchers.optuna.recorded import write_study

    written = write_study(read(uri, sweep, mlflow_experiment), storage, name)
    say(f"study {written} in {redact(storage)}: optuna-dashboard {redact(storage)}")
