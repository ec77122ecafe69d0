"""`bitfront profile`: measure a network's layers on this machine, and write a device file of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from quant_core.util.errors import InputError
from quant_core.util.reading import read_json
from quant_core.util.text import given
from search.cli.terminal import say, terminal

if TYPE_CHECKING:
    from hw_models.measurements import Measurement
    from hw_models.models.measured import Host
    from hw_models.profiling.run import Settings
    from quant_core.spec.layer import Layer


def profile_command(
    device_name: Annotated[
        str, typer.Option("--device-name", help="Name of the device; NAME.toml and NAME.csv are written. With --runtime not needed.")
    ] = "",
    layers: Annotated[
        Path | None,
        typer.Option(
            "--layers", help="Whose layers: an experiment (.toml), a policy.json or layers (.json), or shapes (.csv); default: ResNet-18."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to write to; with --runtime that of this-machine:RUNTIME.")] = Path(),
    runtime: Annotated[str, typer.Option("--runtime", help="onnxruntime, openvino, executorch, litert, torch: times whole networks.")] = "",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Examples of one pass.")] = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of onnxruntime; the 1-bit kernel is measured on one only.")] = 1,
    repeats: Annotated[int, typer.Option("--repeats", min=3, help="Timings per layer and mode.")] = 10,
    device: Annotated[str, typer.Option("--device", help="What is measured: cpu; there is no profile of a GPU.")] = "cpu",
) -> None:
    """Measure each distinct layer shape on this machine: onnxruntime in float32, 8 bit and packed weights, and our 1-bit kernel.

    Ctrl-C keeps what was measured; the same command then goes on where it stopped.

    With --runtime the experiment's network is measured as a whole, in every uniform policy that the runtime tells apart, and its time is
    shared out to the layers: the device `this-machine:RUNTIME`, for `[device] name`.

    Example: `bitfront profile --runtime openvino --layers experiment.toml`
    """
    from hw_models.profiling.device import paths, resume
    from hw_models.profiling.host import host
    from hw_models.profiling.run import Settings, plan
    from search.cli.profile_runtime import profile_runtime

    if device != "cpu":
        raise InputError(
            f"--device {given(device)} given: onnxruntime's kernels on the CPU are measured, in CPU time. For a GPU take a device file of "
            f"it (`bitfront devices`), or measure it yourself and write one (docs/device-files.md)."
        )
    if runtime:
        if batch != 1:
            raise InputError(f"--batch {batch} given: --runtime measures a network on one example; leave --batch out.")
        profile_runtime(runtime, layers, device_name, None if out == Path() else out, threads, repeats)
        return
    if not device_name:
        raise InputError("--device-name is missing; give the device a name, as my-laptop, or measure networks with --runtime onnxruntime.")
    settings, machine = Settings(batch, threads, repeats), host(threads)
    rows = list(resume(device_name, out, machine, batch))
    todo = plan(read_network(layers), rows, threads)
    say(f"{machine.cpu}, {machine.cores} cores, {threads} used: {len(todo)} to measure, {len(rows)} measured before")
    missing = _measure(device_name, out, machine, settings, todo, rows)
    if not rows:
        raise InputError("nothing was measured: this onnxruntime has no kernel for any layer given.")
    say(f"wrote {paths(device_name, out)[0]}: {len(rows)} measurements" + (f"; no kernel here for {missing}" if missing else ""))
    say(f"use it by its path: bitfront devices show {paths(device_name, out)[0]}")


def _measure(
    name: str, out: Path, machine: "Host", settings: "Settings", todo: "Sequence[tuple[Layer, Any]]", rows: "list[Measurement]"
) -> str:
    """Measure all of `todo` into `rows`, writing both files after each; return the modes that have no kernel here."""
    from hw_models.profiling.device import write
    from hw_models.profiling.run import measure

    missing: dict[str, int] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal(stderr=True), auto_refresh=False) as bar:  # no thread of its own: CPU time is measured
        task = bar.add_task("", total=len(todo))
        try:
            for (layer, mode), row in zip(todo, measure(todo, settings), strict=True):
                if row is None:
                    missing[str(mode)] = missing.get(str(mode), 0) + 1
                else:
                    rows.append(row)
                    write(name, out, machine, settings.batch, rows)
                bar.update(task, advance=1, description=f"{layer.kind} {'x'.join(map(str, layer.weight_shape))} {mode}", refresh=True)
        except KeyboardInterrupt:
            say(f"interrupted; {len(rows)} measurements are kept in {out / name}.csv. The same command goes on from here.", stderr=True)
            raise typer.Exit(130) from None
    return ", ".join(f"{mode} ({count} shapes)" for mode, count in missing.items())


def read_network(path: Path | None) -> "tuple[Layer, ...]":
    """Return the layers of an experiment, of a policy file, of a list of layers, or of a CSV of shapes; None: ResNet-18's.

    Raises:
        InputError: the file cannot be read, or holds no layers.
    """
    from hw_models.device import FOLDER
    from hw_models.shapes import read_layers
    from quant_core.spec.layer import layers_from_json

    if path is None or path.suffix == ".csv":
        return read_layers(path or FOLDER / "resnet18-layers.csv")
    if path.suffix == ".toml":
        return _layers_of_experiment(path)
    data = read_json(path)
    network = data.get("network") if isinstance(data, dict) else data
    if network is None:
        raise InputError(f"{path}: no 'network' in it; give a policy.json as `bitfront export` writes it, or a list of layers.")
    return layers_from_json(network)


def _layers_of_experiment(path: Path) -> "tuple[Layer, ...]":
    from quant_core.network.trace import trace
    from search import tasks
    from search.config.files import load
    from search.evaluation.measure import traced_inputs

    section = load(path).task
    task = tasks.load(section.name, section.options)
    inputs = traced_inputs(task)
    return tuple(trace(task.model, inputs[0], inputs))
