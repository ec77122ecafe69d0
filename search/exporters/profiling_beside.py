"""Policies in which layers stand beside layers of other codes, for runtimes whose kernels depend on the neighbours of a layer.

onnxruntime computes a convolution by integers where its input and its output are quantized, that is, the inputs of the layers that follow
it; and numbers are converted, and images brought into another order, between layers of integers and of floats. Along a chain of layers two
have quantized inputs and two have not, in turns. In the four such policies every layer stands once behind a layer of its own kind and
before one of the other, and once the other way round, both with quantized and with float inputs.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from hw_models.measurements import Measurement, Mode, shape_key
from quant_core.network.followers import followers
from quant_core.spec.layer import Layer
from quant_core.spec.policy import Policy
from search.exporters.profiling import MODES, Profiled, Reference, by_shape, least_time, measured_policy
from search.exporters.runtimes import Runtime

PERIOD = 4
Followers = Mapping[str, tuple[str, ...]]


def followers_of(network: Profiled, kinds: frozenset[str]) -> Followers:
    """Return layer -> the layers that follow it, for layers of some kinds."""
    if not any(layer.kind in kinds for layer in network.layers):
        return {}
    every = followers(network.model, network.layers, network.example)
    return {layer.name: every[layer.name] for layer in network.layers if layer.kind in kinds and layer.name in every}


def patterns(layers: Sequence[Layer], followed: Followers) -> Iterator[dict[str, Mode]]:
    """Yield the modes of all layers in every pattern: by their distance from the end of their chain."""
    ends: dict[str, int] = {}
    for layer in reversed(layers):
        ends[layer.name] = 1 + max((ends.get(name, 0) for name in followed[layer.name]), default=0) if layer.name in followed else 0
    for shift in range(PERIOD):
        yield {layer.name: MODES[int((ends[layer.name] + shift) % PERIOD < PERIOD // 2)] for layer in layers}


def mode_beside(name: str, modes: Mapping[str, Mode], followed: Followers) -> Mode | None:
    """Return the mode of a layer in a pattern with what is other before or behind it; None where nothing is, or both are."""
    mode = modes[name]
    before = {modes[other].activation for other, names in followed.items() if name in names}
    behind = {modes[other].activation for other in followed.get(name, ())}
    other_before, other_behind = before - {mode.activation}, behind - {mode.activation}
    if not other_before and behind == other_behind and len(behind) == 1:
        return Mode(mode.weight, mode.activation, behind=behind.pop())
    if not other_behind and before == other_before and len(before) == 1:
        return Mode(mode.weight, mode.activation, before=before.pop())
    return None


def left(layers: Sequence[Layer], followed: Followers, rows: Sequence[Measurement]) -> list[dict[str, Mode]]:
    """Return the patterns in which a layer has not been measured."""
    done = {(shape_key(row.layer), row.mode) for row in rows}

    def lacks(modes: Mapping[str, Mode]) -> bool:
        beside = ((layer, mode_beside(layer.name, modes, followed)) for layer in layers if layer.calls)
        return any(mode is not None and (shape_key(layer), mode) not in done for layer, mode in beside)

    return [modes for modes in patterns(layers, followed) if lacks(modes)] if followed else []


def measure_beside(
    network: Profiled,
    runtime: Runtime,
    followed: Followers,
    todo: Sequence[Mapping[str, Mode]],
    threads: int,
    repeats: int,
    kept: Callable[[list[Measurement]], None],
    float_s: float = 0.0,
) -> None:
    """Measure a network in patterns; `kept` is given the rows of every pattern as it ends.

    Args:
        network, runtime: what is measured.
        followed: layer -> the layers that follow it.
        todo: as `left` returns them.
        threads, repeats, kept, float_s: as `measure_modes` takes them.
    """
    if not todo:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = runtime.write_float(network.model, network.example, Path(folder))
        reference = Reference(path, float_s or least_time(path, runtime, network.example, threads, repeats))
        for modes in todo:
            uniform = {mode: network.uniform(mode) for mode in set(modes.values())}
            policy = Policy({name: uniform[mode][name] for name, mode in modes.items()})
            measured = measured_policy(network, runtime, policy, threads, repeats, reference)
            beside = {name: mode for name in modes if (mode := mode_beside(name, modes, followed)) is not None}
            kept(by_shape(network.layers, measured, beside))
