"""`bitfront inspect`: what a packed file holds, or which layers and choices an experiment searches."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from quant_core.spec.kv_cache import KV_BYTES, kv_bytes
from search.cli.terminal import say, short_name, terminal

if TYPE_CHECKING:
    from search.sweeps.setup import Setup


def inspect_command(
    path: Annotated[Path, typer.Argument(help="A packed .safetensors file; an experiment file, or the name of one that ships.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Of an experiment: changes, as section.key=value.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print what a packed file holds; or the layers of an experiment's network, their choices, and those that they share.

    Example: `bitfront inspect out/model.safetensors`, `bitfront inspect digits device.name=mpic`
    """
    from search.config.files import packaged

    if path.suffix == ".toml" or (str(path) in packaged() and not path.exists()):
        _inspect_experiment(path, overrides or [], as_json=as_json)
    else:
        _inspect_file(path, as_json=as_json)


def _inspect_file(path: Path, *, as_json: bool) -> None:
    from dataclasses import asdict

    from quant_core.export.inspect import describe, shares

    described = describe(path)
    rows = [asdict(row) for row in described]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(*rows[0], box=None) if rows else Table(box=None)
    for row in rows:
        table.add_row(*(f"{value:.6g}" if isinstance(value, float) else short_name(str(value)) for value in row.values()))
    terminal().print(table)
    say(shares(described))


def _inspect_experiment(path: Path, overrides: list[str], *, as_json: bool) -> None:
    from search.config.files import load
    from search.sweeps.setup import prepare

    sys.path.append(str(Path.cwd()))  # a user's own `package.module:attribute` may be in the working directory
    setup = prepare(load(path, overrides))
    rows = [
        {"layer": layer.name, "kind": layer.kind, "weights": layer.weights, **_choices(setup, layer.name, layer.tied_to)}
        for layer in setup.layers
    ]
    ties = [{"slot": tie.slot, "layers": list(tie.layers), "reason": tie.reason} for tie in setup.ties]
    cached = {str(spec): kv_bytes(setup.heads, spec) for spec in setup.experiment.space.kv} if setup.heads else {}
    if as_json:
        typer.echo(
            json.dumps(
                {"layers": rows, "ties": ties, "dropped": list(map(str, setup.dropped)), "policies": str(setup.space.size)}
                | ({KV_BYTES: cached} if cached else {}),
                indent=2,
            )
        )
        return
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*(short_name(str(value)) for value in row.values()))
    terminal().print(table)
    say(str(setup.coverage))
    if cached:
        say(f"KV cache: {', '.join(f'{spec} ({size:.6g} bytes per token)' for spec, size in cached.items())}")
    for tie in setup.ties:
        say(f"one choice: {tie}")
    for dropped in setup.dropped:
        say(str(dropped))
    say(f"{len(setup.space.dimensions)} free choices; a rule {{ untie = PATTERN }} lets layers choose for themselves" if ties else "")


def _choices(setup: "Setup", name: str, owner: str) -> dict[str, str]:
    """Return the choices of both slots of a layer, and the layer that it takes them from where it has none of its own."""
    texts: dict[str, str] = {}
    for slot in ("weight", "activation"):
        dimension = next((d for d in setup.space.dimensions if d.slot == slot and name in d.layers), None)
        fixed = str(getattr(setup.space.base[name], slot))
        shared = f"as {dimension.layers[0]}" if dimension and dimension.layers[0] != name else ""
        texts[slot] = shared or (
            f"{len(dimension.choices)} choices" if dimension else f"as {owner}" if owner and slot == "weight" else fixed
        )
    return texts
