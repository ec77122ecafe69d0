"""`bitfront profile --runtime`: the device this-machine:RUNTIME, of the network of an experiment."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hw_models.loading import HERE, machine_folder, machine_name
from quant_core.util.errors import InputError
from search.cli.terminal import say

if TYPE_CHECKING:
    from hw_models.measurements import Measurement, Mode
    from quant_core.spec.layer import Layer
    from search.exporters.profiling import Profiled

CALIBRATION = 64
"""Examples that ranges come from; times do not depend on them."""


def profile_runtime(name: str, experiment: Path | None, device_name: str, out: Path | None, threads: int, repeats: int) -> None:
    """Measure the network of an experiment in a runtime, and write its device file after every policy; what was measured before is kept.

    Raises:
        InputError: no such runtime, or it is not installed, or no experiment is given, or the folder cannot be written.
    """
    from hw_models.measurements import shape_key
    from hw_models.profiling.device import paths, resume, write
    from hw_models.profiling.host import host
    from quant_core.util.files import require_writable
    from search.exporters.profiling import MODES, measure_modes
    from search.exporters.runtimes import runtime

    if experiment is None or experiment.suffix != ".toml":
        raise InputError("--runtime measures a whole network: give its experiment, as in --layers experiment.toml.")
    target = runtime(name)
    machine, folder, called = host(threads, f"{name} {target.version}"), out or machine_folder(), device_name or machine_name(name)
    rows = list(resume(called, folder, machine, 1))
    require_writable(paths(called, folder)[0])
    network = _network(experiment)
    todo = left(network.layers, rows, MODES)
    of = f"{len(todo)} of {len(MODES)} uniform policies to measure in {machine.runtime}"
    say(f"{machine.cpu}, {machine.cores} cores, {threads} used: {of}")

    def kept(measured: "list[Measurement]") -> None:
        done = {(shape_key(row.layer), row.mode) for row in measured}
        rows[:] = [row for row in rows if (shape_key(row.layer), row.mode) not in done] + measured
        write(called, folder, machine, 1, rows)
        total = sum(row.seconds * _times(row, network.layers) for row in measured)
        say(f"  {measured[0].mode}: {total * 1e3:.3g} ms, spread {measured[0].spread:.0%} over {measured[0].repeats} repeats")

    try:
        refused = measure_modes(network, target, todo, threads, repeats, kept, _float_s(network, rows, todo))
    except KeyboardInterrupt:
        say(f"interrupted; what was measured is kept in {paths(called, folder)[1]}. The same command goes on from here.", stderr=True)
        raise typer.Exit(130) from None
    for mode, reason in refused.items():
        say(f"  {mode}: not measured: {reason}")
    if not rows:
        raise InputError(f"nothing was measured: {name} runs no uniform policy of this network.")
    written = paths(called, folder)[0]
    use = f'name = "{HERE}{name}"' if written == paths(machine_name(name), machine_folder())[0] else f'name = "{written}"'
    say(f"wrote {written}: {len(rows)} measurements; use it in an experiment: [device] {use}")


def _float_s(network: "Profiled", rows: "Sequence[Measurement]", todo: "Sequence[Mode]") -> float:
    """Return the seconds of the float network where they were measured before, else 0."""
    from search.exporters.profiling import MODES

    return 0.0 if MODES[0] in todo else sum(row.seconds * _times(row, network.layers) for row in rows if row.mode == MODES[0])


def left(layers: "Sequence[Layer]", rows: "Sequence[Measurement]", modes: "Sequence[Mode]") -> "list[Mode]":
    """Return the modes in which a shape of the layers has not been measured."""
    from hw_models.measurements import shape_key

    shapes = {shape_key(layer) for layer in layers if layer.calls}
    return [mode for mode in modes if shapes - {shape_key(row.layer) for row in rows if row.mode == mode}]


def _times(row: "Measurement", layers: "Sequence[Layer]") -> int:
    """Return how often a shape is called in the network."""
    from hw_models.measurements import shape_key

    return sum(layer.calls for layer in layers if shape_key(layer) == shape_key(row.layer))


def _network(experiment: Path) -> "Profiled":
    from quant_core.network.trace import trace
    from quant_core.ptq.engine import PostTraining
    from search import tasks
    from search.config.files import load
    from search.evaluation.measure import first_inputs, take, traced_inputs
    from search.exporters.profiling import Profiled

    section = load(experiment).task
    task = tasks.load(section.name, section.options)
    inputs = traced_inputs(task)
    layers = tuple(trace(task.model, inputs[0], inputs))
    calibration = [batch for batch, _ in take(task.calib, CALIBRATION)]
    example = first_inputs(task)
    return Profiled(task.model, layers, example, PostTraining(task.model, layers, calibration, example))
