"""`bitfront repair`: set a sweep's record right after a full disk, a dead writer or a lost store."""

from typing import Annotated

import typer

from search.cli.options import ExperimentName, Uri
from search.cli.terminal import say
from search.config.store import DEFAULT_URI


def repair_command(
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="Name or MLflow run id of the sweep.")],
    uri: Uri = DEFAULT_URI,
    mlflow_experiment: ExperimentName = None,
) -> None:
    """Send the rest of a journal, set the front's tags right, and write a sweep anew whose store was lost.

    Example: `bitfront repair digits-tpe`
    """
    from search.tracking.repair import repair

    done = repair(uri, sweep, mlflow_experiment)
    anew = ", written anew from its journal" if done.rebuilt else ""
    say(f"{done.name}: {done.trials} trials{anew}; tags of the front set right on {done.mended} trials")
    say(f"{done.name} {done.run_id}")
    if not done.complete:
        say("MLflow does not have everything yet, see above; run this again when it takes them.", stderr=True)
        raise typer.Exit(1)
