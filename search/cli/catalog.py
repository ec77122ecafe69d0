"""`bitfront list` and `init`: what there is, a commented experiment."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from quant_core.util.errors import InputError
from quant_core.util.files import write_text
from quant_core.util.registry import about, unknown
from search.cli.completion import FAMILIES, family_names
from search.cli.terminal import say, terminal


def _families() -> dict[str, dict[str, str]]:
    """Return family -> name -> one line about it."""
    from quant_core.qat import QAT_METHODS
    from quant_core.spec.formats import CLIPPINGS, FORMATS, ROUNDINGS
    from search.config.schedulers import RAY, SCHEDULERS
    from search.exporters import EXPORTERS
    from search.searchers import SEARCHERS
    from search.sweeps.backend import BACKENDS
    from search.sweeps.ray.searchers import RAY_SEARCHERS
    from search.tasks import TASKS

    by_attribute = {"searchers": SEARCHERS, "tasks": TASKS}
    by_module = {"qat-methods": QAT_METHODS, "exporters": EXPORTERS, "backends": BACKENDS}
    families = {
        "formats": {name: entry.about for name, entry in FORMATS.items()},
        "clippings": dict(CLIPPINGS),
        "roundings": dict(ROUNDINGS),
        **{family: {name: about(path) for name, path in table.items()} for family, table in by_attribute.items()},
        **{family: {name: about(path.partition(":")[0]) for name, path in table.items()} for family, table in by_module.items()},
        "schedulers": {name: scheduler.about for name, scheduler in SCHEDULERS.items()},
    }
    families["searchers"] |= {RAY + name: searcher.about for name, searcher in RAY_SEARCHERS.items()}
    return families


def list_command(
    family: Annotated[
        str | None,
        typer.Argument(
            metavar="[FAMILY]",
            help=f"{', '.join(FAMILIES[:-1])} or {FAMILIES[-1]}; without it, all.",
            autocompletion=family_names,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the families, or the known members of one.

    Example: `bitfront list formats`
    """
    families = _families()
    if family is not None and family not in families:
        raise unknown("family", family, families)
    members = {name: ", ".join(table) for name, table in families.items()} if family is None else families[family]
    if as_json:
        typer.echo(json.dumps({name: list(table) for name, table in families.items()} if family is None else members, indent=2))
        return
    table = Table(box=None)
    table.add_column("name", no_wrap=True)
    table.add_column("what")
    for row in members.items():
        table.add_row(*row)
    terminal().print(table)


def init_command(
    path: Annotated[Path, typer.Argument(help="Where to write the experiment file.")] = Path("experiment.toml"),
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="MODULE:NETWORK", help="Write a task for this network, too: a network, or a function that returns one."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented experiment file; with --from also a task file for a network of yours.

    Example: `bitfront init my.toml --from my_module:net`
    """
    from search.config.files import template

    module = re.sub(r"\W", "_", path.stem) + "_task"
    files = {path: template() if source is None else template(f"{module}:task", "counts")}
    if source is not None:
        from search.tasks.starting import looked_at, task_source

        start = looked_at(source)
        files[path.with_name(f"{module}.py")] = task_source(start)
        say(f"{source}: {start.kind} with {start.parameters:,} parameters; it takes {start.inputs or 'no input that was tried: write one'}")
    for file in files:
        if file.exists() and not force:
            raise InputError(f"{file} exists; give another name, or --force to overwrite it.")
    for file, text in files.items():
        write_text(file, text)
    say(f"wrote {' and '.join(map(str, files))}; run it with: bitfront sweep {path}")
