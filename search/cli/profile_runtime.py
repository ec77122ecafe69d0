"""`bitfront profile --runtime`: the device this-machine:RUNTIME, of the network of an experiment."""

from collections.abc import Mapping, Sequence
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
    from hw_models.profiling.device import paths, resume, write
    from hw_models.profiling.host import host
    from quant_core.util.files import require_writable
    from search.exporters import profiling_beside
    from search.exporters.profiling import MODES, float_alone, measure_modes, unmeasured
    from search.exporters.profiling_beside import followers_of, measure_beside
    from search.exporters.runtimes import runtime

    if experiment is None or experiment.suffix != ".toml":
        raise InputError("--runtime measures a whole network: give its experiment, as in --layers experiment.toml.")
    target = runtime(name)
    machine, folder, called = host(threads, f"{name} {target.version}"), out or machine_folder(), device_name or machine_name(name)
    rows = list(resume(called, folder, machine, 1))
    require_writable(paths(called, folder)[0])
    network = _network(experiment)
    followed = followers_of(network, target.beside)
    todo, mixed = unmeasured(network, target, rows, MODES), profiling_beside.left(network.layers, followed, rows)
    of = f"{len(todo)} of {len(MODES)} uniform policies to measure in {machine.runtime}"
    beside = f", and {len(mixed)} in which layers stand beside others of other codes, as its kernels depend on that" if mixed else ""
    say(f"{machine.cpu}, {machine.cores} cores, {threads} used: {of}{beside}")

    def kept(measured: "list[Measurement]") -> None:
        _merge(rows, measured)
        write(called, folder, machine, 1, rows, followed)
        _say_measured(measured, network.layers)

    try:
        refused = measure_modes(network, target, todo, threads, repeats, kept, _float_s(network, rows, todo))
        if MODES[1] in (row.mode for row in rows):
            measure_beside(network, target, followed, mixed, threads, repeats, kept, _float_s(network, rows, ()))
    except KeyboardInterrupt:
        say(f"interrupted; what was measured is kept in {paths(called, folder)[1]}. The same command goes on from here.", stderr=True)
        raise typer.Exit(130) from None
    _say_refused(refused, float_alone(network, target))
    if not rows:
        raise InputError(f"nothing was measured: {name} runs no uniform policy of this network.")
    written = paths(called, folder)[0]
    use = f'name = "{HERE}{name}"' if written == paths(machine_name(name), machine_folder())[0] else f'name = "{written}"'
    say(f"wrote {written}: {len(rows)} measurements; use it in an experiment: [device] {use}")


def _merge(rows: "list[Measurement]", measured: "Sequence[Measurement]") -> None:
    """Add measurements in place of earlier ones of the same shape and mode; of layers beside others there may be several."""
    from hw_models.measurements import shape_key

    done = {(shape_key(row.layer), row.mode) for row in measured if not row.mode.beside}
    rows[:] = [row for row in rows if (shape_key(row.layer), row.mode) not in done] + list(measured)


def _say_measured(measured: "Sequence[Measurement]", layers: "Sequence[Layer]") -> None:
    first, total = measured[0], sum(row.seconds * _times(row, layers) for row in measured)
    what = "layers beside others" if first.mode.beside else f"{first.mode}: {total * 1e3:.3g} ms"
    say(f"  {what}, spread {first.spread:.0%} over {first.repeats} repeats")


def _say_refused(refused: Mapping[str, str], alone: Mapping[str, str]) -> None:
    """Say which modes a runtime does not run, and which layers it runs in float alone, each with the reason."""
    from quant_core.util.text import listed

    for mode, reason in refused.items():
        say(f"  {mode}: not measured: {reason}")
    if alone:
        say(f"  in float alone: {listed(alone)}: {next(iter(alone.values()))}")


def _float_s(network: "Profiled", rows: "Sequence[Measurement]", todo: "Sequence[Mode]") -> float:
    """Return the seconds of the float network where they were measured before, else 0."""
    from search.exporters.profiling import MODES

    return 0.0 if MODES[0] in todo else sum(row.seconds * _times(row, network.layers) for row in rows if row.mode == MODES[0])


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
