"""`bitfront devices ...` and `bitfront cost`: device files, their validation, and the cost of one policy. Free of torch."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from hw_models.device import Device
from hw_models.loading import HERE, device_names, load_device
from hw_models.models import find_model
from hw_models.runtimes import load_runtime, runtime_names
from hw_models.shapes import read_layers
from hw_models.table import build_table
from hw_models.validation.run import Check, validate
from hw_models.validation.widths import widths
from quant_core.spec.layer import Layer, layers_from_json
from quant_core.spec.policy import Policy
from quant_core.util.errors import InputError
from quant_core.util.reading import read_json
from quant_core.util.text import listed
from search.cli.completion import device_files
from search.cli.probe import print_kernels
from search.cli.terminal import Terminal, short_name, styled, terminal
from search.records.units import ENERGY, title_of, unit_of

devices_app = typer.Typer(no_args_is_help=False)
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

_SHOWN = ("latency_s", "energy_j", "weight_bytes", "peak_activation_bytes", "macs", "bit_ops")
_WIDE = 120  # columns from which on a cost table also shows the parts of time and energy


@devices_app.callback(invoke_without_command=True)
def list_devices(context: typer.Context, as_json: Json = False) -> None:
    """List device files, show one, check their models against published figures.

    Example: `bitfront devices`, `bitfront devices show t4`
    """
    if context.invoked_subcommand:
        return
    identities = [load_device(name).file.identity for name in device_names()]
    if as_json:
        typer.echo(json.dumps([identity.model_dump() for identity in identities], indent=2))
        return
    table = Table()
    for title in ("name", "kind", "what", "process", "batch"):
        table.add_column(title, no_wrap=title == "name")
    for identity in identities:
        table.add_row(identity.name, identity.kind, identity.title, identity.process, str(identity.batch))
    terminal().print(table)


@devices_app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A device's name, the path of a device file, or a runtime.", autocompletion=device_files)],
    as_json: Json = False,
) -> None:
    """Show what a device can run, where its numbers come from, and how far off its model is.

    Example: `bitfront devices show vu9p-bitserial`
    """
    if name in runtime_names():
        _show_runtime(name, as_json)
        return
    device = _shown_device(name)
    checks = validate(device)
    if as_json:
        typer.echo(json.dumps({"file": device.to_json(), "checks": [_plain(check) for check in checks]}, indent=2))
        return
    console, identity = terminal(), device.file.identity
    clock = f", {identity.clock_hz / 1e6:g} MHz" if identity.clock_hz else ""
    console.print(styled(identity.name, "bold"), f": {identity.title}", sep="")
    console.print(f"kind {identity.kind}, {identity.process or 'any process'}{clock}")
    console.print(f"latency_s and energy_j are for one pass of a batch of {identity.batch}; {find_model(identity.kind).about}")
    table = Table("layers", "may take", title="capability")
    for rule in device.file.capability:
        layer = Layer("", rule.layers[0], 1, 1, (1, 1), (1,), (1,), 1)
        table.add_row(", ".join(rule.layers), str(device.legal(layer)))
    console.print(table)
    runs, stored, moved = widths(device)
    console.print(f"codes run as: {runs}; stored as: {stored}; moved: {moved}", soft_wrap=True)
    if device.latency_error:
        console.print(f"{device.latency_error}; of layers and networks that the fit of the model did not see", soft_wrap=True)
    facts = Table("key", "value", title="numbers")
    for section, content in device.to_json().items():
        if section not in ("schema", "identity", "capability", "source", "golden"):
            facts.add_row(section, json.dumps(content))
    console.print(facts)
    sources = Table("id", "source", "where", title="sources")
    for source in device.file.source:
        sources.add_row(source.id, source.title, source.where)
    console.print(sources)
    _print_checks(console, checks)
    if name.startswith(HERE) and name.removeprefix(HERE) in runtime_names():
        print_kernels(load_runtime(name.removeprefix(HERE)))


def _shown_device(name: str) -> Device:
    """Return a device; where there is none of that name, the error lists the runtimes too."""
    try:
        return load_device(name)
    except InputError as error:
        if name.startswith(HERE) or Path(name).is_file():
            raise
        raise InputError(f"{error} Runtimes that can be shown: {listed(runtime_names())}.") from None


def _show_runtime(name: str, as_json: bool) -> None:
    file = load_runtime(name)
    if as_json:
        typer.echo(json.dumps(file.model_dump(mode="json", by_alias=True), indent=2))
    else:
        print_kernels(file)


@devices_app.command("validate")
def validate_command(
    name: Annotated[str, typer.Argument(help="A device's name or file; all devices when left out.", autocompletion=device_files)] = "",
    golden: Annotated[Path | None, typer.Option("--golden", help="Check against this CSV instead of the device's own figures.")] = None,
    as_json: Json = False,
) -> None:
    """Run the golden values of devices; exit code 1 where one is past its tolerance.

    Example: `bitfront devices validate t4`
    """
    if golden and not name:
        raise InputError("--golden was given without a device; write `bitfront devices validate NAME --golden FILE.csv`.")
    checks = [check for device in ([name] if name else device_names()) for check in validate(load_device(device), golden)]
    if as_json:
        typer.echo(json.dumps([_plain(check) for check in checks], indent=2))
    else:
        _print_checks(terminal(), checks)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


def cost_command(
    policy: Annotated[Path, typer.Argument(help="policy.json, as `bitfront export` writes it.")],
    device: Annotated[str, typer.Option("--device", help="A device's name, or the path of a device file.", autocompletion=device_files)],
    layers: Annotated[
        Path | None, typer.Option("--layers", help="JSON list or CSV of the network's layers; needed where policy.json has no 'network'.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Cost one policy on a device, layer by layer; exit code 1 where it breaks a hard limit of the device.

    Example: `bitfront cost out/digits/policy.json --device stm32h743-cmsis-nn`
    """
    data = read_json(policy)
    network, choice = _network(data, policy, layers), Policy.from_json(data)
    target = load_device(device)
    missing = [layer.name for layer in network if layer.name not in choice]
    if missing:
        raise InputError(f"{policy}: no entry for layers {listed(missing)}; it names {listed(choice)}.")
    table = build_table(target, network, {layer.name: (choice[layer.name],) for layer in network})
    totals, rows, excess = table.totals(choice), table.explain(choice), table.excess(choice)
    if as_json:
        report = {"device": target.name, "latency_error": target.latency_error, "batch": target.batch, "policy": choice.id}
        report |= {"totals": totals, "layers": rows}
        typer.echo(json.dumps(report | {"limits": dict(table.limits), "excess": excess}, indent=2))
    else:
        _print_cost(target, totals, rows, excess)
    if excess:
        raise typer.Exit(1)


def _network(data: Any, policy: Path, layers: Path | None) -> tuple[Layer, ...]:
    """Return the layers that the policy is for, from `--layers` or from the policy file itself."""
    if layers is not None and layers.suffix == ".csv":
        return read_layers(layers)
    network = read_json(layers) if layers is not None else data
    network = network.get("network") if isinstance(network, dict) else network
    if network is None:
        raise InputError(f"{layers or policy}: no 'network' in it; give the network's layers with --layers FILE (JSON or CSV).")
    return layers_from_json(network)


def _plain(check: Check) -> dict[str, Any]:
    """Return a check as JSON data: NaN, which JSON does not have, as null."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(check).items()}


def _print_checks(console: Terminal, checks: list[Check] | tuple[Check, ...]) -> None:
    table = Table("device", "check", "n", "exact", "mean err", "max err", "tolerance", "rank corr", "", title="golden values")
    for check in checks:
        tolerance = f"{check.tolerance_mean_percent:g} / {check.tolerance_max_percent:g} %"
        rank = "-" if math.isnan(check.rank) else f"{check.rank:.4f}"
        errors = (f"{check.mean_percent:.3g} %", f"{check.max_percent:.3g} %")
        verdict = styled("ok", "green") if check.passed else styled("FAILED", "red")
        table.add_row(check.device, check.name, str(check.n), str(check.exact), *errors, tolerance, rank, verdict)
    console.print(table if checks else "no golden values: there are no published figures for this device, so nothing is known of its error")
    for check in checks:
        console.print(f"{check.device}, {check.name}: {check.source}", soft_wrap=True)
        for line in (f"{check.exact} of {check.n} rows exact", *check.remarks, *(() if check.passed else check.mismatches)):
            console.print(f"    {line}", soft_wrap=True)


def _print_cost(device: Device, totals: dict[str, float], rows: list[dict[str, Any]], excess: tuple[str, ...]) -> None:
    console = terminal()
    metrics = [metric for metric in totals if metric in _SHOWN]
    wide = console.width >= _WIDE
    extra = [key for key in ("compute_s", "memory_s", "stall_s") if wide and any(key in row for row in rows)]
    parts = list(dict.fromkeys(part for row in rows for part in row["energy_parts_j"] if wide))
    heads = [f"{title_of(key)}\n{unit_of(key).name}" for key in (*metrics, *extra)] + [f"{part}\n{ENERGY.name}" for part in parts]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("layer", "weight", "activation", *heads, "note"):
        figure = title in heads
        table.add_column(title, no_wrap=figure, justify="right" if figure else "left", overflow="fold", min_width=5 if figure else 8)
    for row in rows:
        figures = [unit_of(key).number(row[key]) if key in row else "" for key in (*metrics, *extra)]
        energy = [ENERGY.number(row["energy_parts_j"].get(part, 0.0)) for part in parts]
        table.add_row(short_name(row["layer"]), row["weight"], row["activation"], *figures, *energy, row["note"])
    table.add_section()
    table.add_row("total", "", "", *(unit_of(metric).number(totals[metric]) for metric in metrics))
    console.print(table)
    console.print(f"{device.name}: time and energy are for one pass of a batch of {device.batch}; activations are the peak, the rest sums")
    if device.latency_error:
        console.print(f"{device.name}: {device.latency_error}", soft_wrap=True)
    for sentence in excess:
        console.print(styled(sentence, "red"), soft_wrap=True)
