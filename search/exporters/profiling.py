"""The layers of a network as a runtime computes them within the network: measured per policy that is the same for all layers.

A layer alone is not what it is in a network: runtimes fuse it with its neighbours and hand integers on between layers, and its weights lie
in other caches. So the whole network is written in every uniform policy that the runtime tells apart, its time is measured, and the
runtime's own profiler says which part of it is whose. Operations between layers belong to the layer that they stand before. The entries of
a policy add up to its measured time.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hw_models.measurements import Measurement, Mode, shape_key, shape_only
from quant_core.export.replay import timed
from quant_core.export.stored import Quantized, post_training
from quant_core.ptq.engine import PostTraining
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import FLOAT, parse
from quant_core.util.errors import BitfrontError
from search.exporters.runtimes import Runtime, example_arrays

BUDGET_S, MOST = 1.5, 2000
"""Short calls are repeated for so long, and so often at most: on a shared machine one of many single calls is undisturbed, a long run of
calls seldom is."""
MODES = (
    Mode("float", "float"),
    Mode("int8", "int8"),
    Mode("int8", "float"),
    Mode("int4", "int8"),
    Mode("int4", "float"),
    Mode("int2", "int8"),
    Mode("int2", "float"),
)
"""Codes of weights and inputs that runtimes tell apart; codes between are stored as the next wider one."""


@dataclass(frozen=True, eq=False)
class Profiled:
    """A network that is profiled.

    Attributes:
        model, layers, example: the float network, its layers in network order, and one batch of its inputs.
        engine: quantizes it.
    """

    model: nn.Module
    layers: tuple[Layer, ...]
    example: Any
    engine: PostTraining

    def quantized(self, policy: Policy) -> Quantized:
        """Return the network under a policy."""
        return post_training(self.engine, self.model, self.layers, policy, self.example)

    def uniform(self, mode: Mode) -> Policy:
        """Return the policy whose every layer has the codes of `mode`: one scale per channel, or float."""
        weight = FLOAT if mode.weight == "float" else parse(f"{mode.weight}:channel")
        activation = FLOAT if mode.activation == "float" else parse(f"{mode.activation}:tensor")
        return Policy(
            {layer.name: LayerPolicy(weight, activation if layer.takes_activation and layer.calls else FLOAT) for layer in self.layers}
        )


@dataclass(frozen=True)
class WholeTime:
    """The time of one call of a whole network.

    Attributes:
        seconds: of the float network, times the median of the ratios of neighbouring calls.
        spread: the median of the calls over the least, minus 1.
        repeats: how many.
    """

    seconds: float
    spread: float
    repeats: int


@dataclass(frozen=True)
class Reference:
    """The float network in a runtime, beside which others are timed: a busy machine lengthens both.

    Attributes:
        path: its file.
        seconds: of one call.
    """

    path: Path
    seconds: float


def measure_modes(
    network: Profiled,
    runtime: Runtime,
    modes: Sequence[Mode],
    threads: int,
    repeats: int,
    kept: Callable[[list[Measurement]], None],
    float_s: float = 0.0,
) -> dict[str, str]:
    """Measure a network in uniform policies; `kept` is given the rows of every mode as it ends.

    Args:
        network, runtime, modes: what is measured.
        threads: of the runtime.
        repeats: calls of each file; more where they are short.
        kept: takes the rows.
        float_s: seconds of the float network, where an earlier run measured them; 0: they are measured now.

    Returns:
        mode -> why the runtime does not run it.
    """
    refused: dict[str, str] = {}
    if not modes:
        return refused
    with tempfile.TemporaryDirectory() as folder:
        path = runtime.write_float(network.model, network.example, Path(folder))
        reference = Reference(path, float_s or least_time(path, runtime, network.example, threads, repeats))
        for mode in modes:
            try:
                kept(_rows(network, runtime, mode, threads, repeats, reference))
            except BitfrontError as error:
                refused[str(mode)] = str(error)
    return refused


def least_time(path: Path, runtime: Runtime, example: Any, threads: int, repeats: int) -> float:
    """Return the least seconds of one call on one example, in a fresh process; on one thread its CPU time.

    Raises:
        BitfrontError: the process failed.
    """
    return float(_timed([path], runtime, example, threads, repeats).min())


def whole_time(path: Path, reference: Reference, runtime: Runtime, example: Any, threads: int, repeats: int) -> WholeTime:
    """Return the time of one call on one example, by its ratio to the float network's, in turns in a fresh process.

    Raises:
        BitfrontError: the process failed.
    """
    rows = _timed([path, reference.path], runtime, example, threads, repeats)
    ratio, seconds = float(np.median(rows[:, 0] / rows[:, 1])), rows[:, 0]
    return WholeTime(reference.seconds * ratio, float(np.median(seconds) / seconds.min() - 1), len(rows))


def _timed(paths: Sequence[Path], runtime: Runtime, example: Any, threads: int, repeats: int) -> NDArray[np.float64]:
    """Return the seconds of one call of every file, [calls, files]; on one thread CPU time, which other processes lengthen little."""
    arrays, files = example_arrays(example), [(path, {"threads": threads}) for path in paths]
    first = float(timed(files, arrays, runtime.name, repeats=3, own=threads == 1).min(axis=0).sum())
    return timed(files, arrays, runtime.name, repeats=enough(repeats, first), own=threads == 1)


def enough(repeats: int, seconds: float) -> int:
    """Return how often calls of `seconds` are repeated: `repeats` times, or more where they are short."""
    return max(repeats, min(MOST, int(BUDGET_S / max(seconds, 1e-6))))


def _rows(network: Profiled, runtime: Runtime, mode: Mode, threads: int, repeats: int, reference: Reference) -> list[Measurement]:
    """Return a measurement per distinct shape of the layers, which is the mean over those of its shape, for one call."""
    with tempfile.TemporaryDirectory() as folder:
        path = runtime.write(network.quantized(network.uniform(mode)), Path(folder))
        whole = whole_time(path, reference, runtime, network.example, threads, repeats)
        called = [layer for layer in network.layers if layer.calls]
        nodes = runtime.node_seconds(path, [layer.name for layer in called], example_arrays(network.example), threads, whole.repeats)
    shares = shared_out(nodes, called, whole.seconds)
    shapes: dict[object, list[tuple[Layer, float]]] = {}
    for layer in called:
        shapes.setdefault(shape_key(layer), []).append((layer, shares[layer.name] / layer.calls))
    return [
        Measurement(
            shape_only(entries[0][0]),
            mode,
            float(f"{np.mean([seconds for _, seconds in entries]):.6g}"),
            float(f"{whole.spread:.3g}"),
            whole.repeats,
        )
        for entries in shapes.values()
    ]


def shared_out(nodes: Sequence[tuple[str, float]], layers: Sequence[Layer], total: float) -> dict[str, float]:
    """Share the time of a whole call out to layers.

    Args:
        nodes: (layer or "", seconds) of every operation in the order of execution, as the runtime's profiler has them.
        layers: that are called.
        total: seconds of the call, measured without the profiler; the shares add up to it.

    Returns:
        layer -> seconds. An operation of no layer counts to the next one of a layer, at the end to the last. The profiler adds to every
        operation at most what the quickest one takes; what is left over is the load of the machine. A layer that the profiler does not
        show (fused into another) gets a part of the others' time by its MACs.
    """
    times = [seconds for _, seconds in nodes]
    cost = min(max(sum(times) - total, 0.0) / max(len(times), 1), min(times, default=0.0))  # of the profiler, per operation
    shares, waiting, last = dict.fromkeys((layer.name for layer in layers), 0.0), 0.0, ""
    for name, seconds in nodes:
        waiting += max(seconds - cost, 0.02 * seconds)
        if name in shares:
            shares[name] += waiting
            waiting, last = 0.0, name
    if last:
        shares[last] += waiting
    shown = [layer for layer in layers if shares[layer.name]]
    if len(shown) < len(layers):
        work = {layer.name: float(max(layer.macs * layer.calls, 1)) for layer in layers}
        whole = {name: work[name] / sum(work.values()) for name in work}
        left = sum(whole[layer.name] for layer in layers if layer not in shown)
        seen = sum(shares.values()) or 1.0
        shares = {name: whole[name] if not shares[name] else (1 - left) * shares[name] / seen for name in shares}
    scale = total / sum(shares.values())
    return {name: seconds * scale for name, seconds in shares.items()}
