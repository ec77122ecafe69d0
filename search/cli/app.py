"""The `bitfront` command. Each command lives in its own module, which is imported when that command is called, see `commands`."""

import itertools
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from quant_core.util.allocator import keep_pages
from quant_core.util.errors import BitfrontError, BitfrontWarning, InputError
from quant_core.util.text import printable
from search.cli.commands import COMMANDS, Commands, later
from search.cli.json_lines import say_json
from search.cli.terminal import LONGEST, Terminal, say, terminal

INTERRUPTED = 130  # typer's exit code after Ctrl-C
READING = {"sweeps", "front", "show", "compare", "study", "repair", "ui", "inspect"}
"""Commands that load no code of the user's or of a record's."""

app = typer.Typer(
    name="bitfront",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata  # a tenth of the time in which a command starts

        say(f"bitfront {metadata.version('bitfront')}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Search the per-layer quantization policies of a PyTorch network: accuracy against latency, energy and size.

    Example: `bitfront sweep examples/digits.toml`, then `bitfront front NAME`
    """
    context.obj = debug


for _name, (_, _about) in COMMANDS.items():
    app.command(_name, help=_about)(later)


def main() -> None:
    """Run the command line: exit code 0, 1 (something failed), 2 (bad usage or input) or 130 (ended by Ctrl-C).

    Errors fit on one screen, without a traceback unless `--debug` is given, which may stand anywhere.
    """
    keep_pages()
    errors = terminal(stderr=True, soft_wrap=True)
    if logging.lastResort:
        logging.lastResort.addFilter(_made_printable)
    debug, arguments = "--debug" in sys.argv, [argument for argument in sys.argv[1:] if argument != "--debug"]
    if not set(arguments[:1]) & READING:  # a user's own `package.module:attribute` may be in the working directory
        sys.path.append(str(Path.cwd()))
    try:
        with warnings.catch_warnings():
            warnings.showwarning = one_line(errors)
            app(arguments)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            errors.print("interrupted")
        raise
    except Exception as error:
        if debug:
            raise
        sys.exit(_report(error, errors, as_json=_logs_json(arguments)))


def one_line(console: Terminal) -> Callable[..., None]:
    """Return a `warnings.showwarning` that prints our own warnings as one line, and others in Python's form."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_rest: Any) -> None:
        if issubclass(category, BitfrontWarning):
            console.print(f"warning: {message}")
        else:
            console.print(warnings.formatwarning(message, category, filename, lineno), end="")

    return show


def _made_printable(record: logging.LogRecord) -> bool:
    """Make the message of a log record printable; a filter that lets every record through."""
    record.msg, record.args = printable(record.getMessage(), LONGEST), ()
    return True


def _logs_json(arguments: list[str]) -> bool:
    """Tell whether a command line asks for `--log json`."""
    return "--log=json" in arguments or ("--log", "json") in itertools.pairwise(arguments)


def _report(error: Exception, console: Terminal, *, as_json: bool) -> int:
    """Print an error; return the exit code."""
    expected = isinstance(error, BitfrontError)
    if as_json:
        say_json({"level": "error", "kind": type(error).__name__, "message": str(error)})
        return 2 if isinstance(error, InputError) else 1
    console.print(f"error: {error}" if expected else f"error: {type(error).__name__}: {error}\n`bitfront --debug ...` shows where.")
    return 2 if isinstance(error, InputError) else 1
