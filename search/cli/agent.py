"""`bitfront agent`: the agent of one sweep, for the start of another."""

from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import ExperimentName, Log, SweepName, Trust, Uri
from search.cli.terminal import say
from search.config.store import DEFAULT_URI

agent_app = typer.Typer(no_args_is_help=True)


@agent_app.callback()
def agents() -> None:
    """Save the HAQ agent of a sweep, with all it learned; another sweep starts with it.

    Example: `bitfront agent save digits-haq --out a.safetensors`, then `bitfront sweep other.toml search.options.agent=a.safetensors`
    """


@agent_app.command("save")
def save(
    sweep: SweepName,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.safetensors", help="The file to write; an earlier one is replaced.")],
    log: Log = "auto",
    trust: Trust = False,
    uri: Uri = DEFAULT_URI,
    mlflow_experiment: ExperimentName = None,
) -> None:
    """Write the networks of the agent of a sweep by `haq` as its last trial left them. The record is replayed, nothing is evaluated.

    Example: `bitfront agent save digits-haq --out agent.safetensors`
    """
    from search.sweeps.taught import taught_agent

    agent = taught_agent(uri, sweep, mlflow_experiment, log, trust=trust)
    agent.write(out)
    say(f"wrote {out}: the agent of {agent.source}. Another sweep starts with it by: search.searcher=haq search.options.agent={out}")
