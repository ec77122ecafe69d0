"""The `bitfront` command. Each command lives in its own `cli_*` module, which imports what is heavy only when it runs."""

import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from quant_core.errors import BitfrontError, InputError
from search import cli_catalog, cli_devices, cli_evaluate, cli_export, cli_profile, cli_report, cli_solve, cli_sweep

app = typer.Typer(
    name="bitfront",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Search the per-layer quantization policies of a PyTorch network: accuracy against latency, energy and size.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bitfront {metadata.version('bitfront')}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    context.obj = debug


for _name, _command in (
    ("sweep", cli_sweep.sweep_command),
    ("resume", cli_sweep.resume_command),
    ("front", cli_report.front_command),
    ("show", cli_report.show_command),
    ("compare", cli_report.compare_command),
    ("ui", cli_report.ui_command),
    ("export", cli_export.export_command),
    ("apply", cli_export.apply_command),
    ("evaluate", cli_evaluate.evaluate_command),
    ("solve", cli_solve.solve_command),
    ("init", cli_catalog.init_command),
    ("list", cli_catalog.list_command),
    ("inspect", cli_catalog.inspect_command),
    ("cost", cli_devices.cost_command),
    ("profile", cli_profile.profile_command),
):
    app.command(_name)(_command)
app.add_typer(cli_devices.devices_app, name="devices")


def main() -> None:
    """Run the command line: exit code 0, 1 (something failed) or 2 (bad usage or input); errors on one screen, without a traceback."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    sys.path.append(str(Path.cwd()))  # a user's own `package.module:attribute` may lie in the working directory
    try:
        app()
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in sys.argv:
            raise
        sys.exit(_report(error, errors))


def _report(error: BaseException, console: Console) -> int:
    """Print an error; return the exit code."""
    if isinstance(error, KeyboardInterrupt):
        console.print("interrupted", markup=False)
        return 130
    known = isinstance(error, BitfrontError)
    console.print(
        f"error: {error}" if known else f"error: {type(error).__name__}: {error}\n`bitfront --debug ...` shows where.", markup=False
    )
    return 2 if isinstance(error, InputError) else 1
