"""The layers of a network as a runtime computes them within the network: measured per policy that is the same for all layers.

A layer alone is not what it is in a network: runtimes fuse it with its neighbours and hand integers on between layers, and its weights lie
in other caches. So the whole network is written in every uniform policy that the runtime tells apart, its time is measured, and the
runtime's own profiler says which part of it is whose. Operations between layers belong to the layer that they stand before. The entries of
a policy add up to its measured time.
"""

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
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
from quant_core.util.text import first_fault
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


def refusals(network: Profiled, runtime: Runtime, mode: Mode) -> dict[str, str]:
    """Return layer -> why a runtime does not run it in a mode."""
    uniform = network.uniform(mode)
    faults = {layer.name: runtime.refusal(layer, uniform[layer.name]) for layer in network.layers if layer.calls}
    return {name: fault for name, fault in faults.items() if fault}


def unmeasured(network: Profiled, runtime: Runtime, rows: Sequence[Measurement], modes: Sequence[Mode]) -> list[Mode]:
    """Return the modes in which a shape of the layers that a runtime runs so has not been measured."""
    done = {(shape_key(row.layer), row.mode) for row in rows}

    def lacks(mode: Mode) -> bool:
        refused = refusals(network, runtime, mode)
        held = [layer for layer in network.layers if layer.calls and layer.name not in refused]
        return not held or any((shape_key(layer), mode) not in done for layer in held)

    return [mode for mode in modes if lacks(mode)]


def float_alone(network: Profiled, runtime: Runtime) -> dict[str, str]:
    """Return layer -> why a runtime runs it in float alone."""
    every = [refusals(network, runtime, mode) for mode in MODES if str(mode) != "float/float"]
    return {name: fault for name, fault in every[0].items() if all(name in faults for faults in every)}


@dataclass(frozen=True)
class WholeTime:
    """The time of one call of a whole network.

    Attributes:
        seconds: of the float network, times the ratio of the means of the lowest fifths of the calls: other processes only add.
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

    Layers that the runtime does not run in a mode stay in float meanwhile, and have no row of it.

    Args:
        network, runtime, modes: what is measured.
        threads: of the runtime.
        repeats: calls of each file; more where they are short.
        kept: takes the rows.
        float_s: seconds of the float network, where an earlier run measured them; 0: they are measured now.

    Returns:
        mode -> why the runtime runs no layer in it.
    """
    refused: dict[str, str] = {}
    if not modes:
        return refused
    with tempfile.TemporaryDirectory() as folder:
        path = runtime.write_float(network.model, network.example, Path(folder))
        reference = Reference(path, float_s or least_time(path, runtime, network.example, threads, repeats))
        plain = network.uniform(MODES[0])
        for mode in modes:
            faults, policy = refusals(network, runtime, mode), network.uniform(mode)
            if all(layer.name in faults for layer in network.layers if layer.calls):
                refused[str(mode)] = first_fault([f"layer {name!r}: {fault}" for name, fault in faults.items()])
                continue
            policy = Policy({name: plain[name] if name in faults else choice for name, choice in policy.items()})
            try:
                measured = measured_policy(network, runtime, policy, threads, repeats, reference, set(faults))
                kept(by_shape(network.layers, measured, {name: mode for name in policy if name not in faults}))
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
    """Return the time of one call on one example, by its ratio to the float network's, in turns in one fresh process.

    Raises:
        BitfrontError: the process failed.
    """
    rows = _timed([path, reference.path], runtime, example, threads, repeats)
    ratio, seconds = low_ratio(rows), rows[:, 0]
    return WholeTime(reference.seconds * ratio, float(np.median(seconds) / seconds.min() - 1), len(rows))


def low_ratio(rows: NDArray[np.float64]) -> float:
    """Return how many times as long the first file takes as the second, of seconds [calls, 2]: by the means of their lowest fifths."""
    low = np.sort(rows, axis=0)[: max(len(rows) // 5, 1)].mean(axis=0)
    return float(low[0] / low[1])


def _timed(paths: Sequence[Path], runtime: Runtime, example: Any, threads: int, repeats: int) -> NDArray[np.float64]:
    """Return the seconds of one call of every file, [calls, files]; on one thread CPU time, which other processes lengthen little."""
    arrays, files = example_arrays(example), [(path, {"threads": threads}) for path in paths]
    first = float(timed(files, arrays, runtime.name, repeats=3, own=threads == 1).min(axis=0).sum())
    return timed(files, arrays, runtime.name, repeats=enough(repeats, first), own=threads == 1)


def enough(repeats: int, seconds: float) -> int:
    """Return how often calls of `seconds` are repeated: `repeats` times, or more where they are short."""
    return max(repeats, min(MOST, int(BUDGET_S / max(seconds, 1e-6))))


def measured_policy(
    network: Profiled, runtime: Runtime, policy: Policy, threads: int, repeats: int, reference: Reference, floats: Collection[str] = ()
) -> tuple[WholeTime, dict[str, float], dict[str, str]]:
    """Return the time of one call under a policy, the share of every layer that is called, and the kernels of those that are told.

    Without a profiler the layers `floats`, which are float in the policy, have the share that they have in the float network.

    Raises:
        BitfrontError: the runtime does not hold it or run it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = runtime.write(network.quantized(policy), Path(folder))
        whole = whole_time(path, reference, runtime, network.example, threads, repeats)
        called = [layer for layer in network.layers if layer.calls]
        nodes = runtime.node_seconds(path, [layer.name for layer in called], example_arrays(network.example), threads, whole.repeats)
        products = [layer.name for layer in called if layer.kind != "embedding"]
        kernels = {row.layer: row.kernel for row in runtime.kernels(path, products).layers}
    fixed = {name: seconds for name, seconds in shared_out([], called, reference.seconds).items() if name in floats and not nodes}
    others = [layer for layer in called if layer.name not in fixed]
    return whole, fixed | shared_out(nodes, others, max(whole.seconds - sum(fixed.values()), 0.01 * whole.seconds)), kernels


def by_shape(
    layers: Sequence[Layer], measured: tuple[WholeTime, dict[str, float], dict[str, str]], modes: Mapping[str, Mode]
) -> list[Measurement]:
    """Return a measurement per distinct shape and mode of the layers, which is the mean over those of its shape, for one call.

    Args:
        layers: of the network.
        measured: what `measured_policy` returns.
        modes: layer -> its mode there; of the others no row is made.
    """
    whole, shares, kernels = measured
    alike: dict[object, list[tuple[Layer, Mode, float]]] = {}
    for layer in layers:
        mode = modes.get(layer.name)
        if layer.calls and mode is not None:
            alike.setdefault((shape_key(layer), mode), []).append((layer, mode, shares[layer.name] / layer.calls))
    return [
        Measurement(
            shape_only(entries[0][0]),
            entries[0][1],
            float(f"{np.mean([seconds for *_, seconds in entries]):.6g}"),
            float(f"{whole.spread:.3g}"),
            whole.repeats,
            _same([kernels.get(layer.name, "") for layer, *_ in entries]),
        )
        for entries in alike.values()
    ]


def _same(words: Sequence[str]) -> str:
    """Return the word that all are, else ""."""
    return words[0] if len(set(words)) == 1 else ""


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
