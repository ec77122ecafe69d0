"""The time that onnxruntime takes for every operation of a file, by its own profiler, and the layers that the operations compute."""

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from numpy.typing import NDArray

from quant_core.export.integer_products import CONVOLUTION
from quant_core.export.kernels import layer_operators

_SUFFIX = "_kernel_time"
_LOOKUPS = ("Gather", "GatherBlockQuantized", "DequantizeLinear")
_PREFIX = "model."
"""Of the names in a graph: the network is traced as a part of another one."""


def node_seconds(
    path: Path, names: Sequence[str], arrays: Mapping[str, NDArray[Any]], threads: int, repeats: int
) -> list[tuple[str, float]]:
    """Return (layer or "", seconds) of every operation, in the order of execution.

    Args:
        path: the file.
        names: of the layers in network order.
        arrays: inputs of one call, by name.
        threads: of one operation.
        repeats: calls that are measured, after a fifth as many that are not.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder, "optimized.onnx")
        options = _options(threads)
        options.optimized_model_filepath = str(optimized)
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        model = onnx.load(optimized)
        layers = owners(model.graph, names)
        for i, node in enumerate(model.graph.node):  # fused ones have no name, by which the profiler tells them apart
            node.name = f"{CONVOLUTION if node.name.startswith(CONVOLUTION) else 'node'}{i}"
        onnx.save(model, optimized)
        options = _options(threads)
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder, "profile"))
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(str(optimized), options, providers=["CPUExecutionProvider"])
        for _ in range(repeats + repeats // 5):
            session.run(None, {value.name: arrays[value.name] for value in session.get_inputs()})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[str, list[float]] = {}
    for event in sorted((event for event in events if event.get("cat") == "Node"), key=lambda event: int(event["ts"])):
        if event["name"].endswith(_SUFFIX):
            times.setdefault(event["name"].removesuffix(_SUFFIX), []).append(float(event["dur"]) * 1e-6)
    owned = {model.graph.node[index].name: layer for index, layer in layers.items()}
    return [(owned.get(name, ""), low_mean(seconds)) for name, seconds in times.items()]


def owners(graph: onnx.GraphProto, names: Sequence[str]) -> dict[int, str]:
    """Return index of a node -> the layer that it computes, for the products with constant weights and the look-ups of an optimized graph.

    Args:
        graph: as onnxruntime optimizes it.
        names: of the layers in network order.

    A node is a layer's by the name of a weight that it reads, by its own, or by the module in it. Where these leave products without a
    layer, and there are as many products as layers, they are theirs in the order of the graph.
    """
    products = {node.output[0] for node, _ in layer_operators(graph)}
    order = [i for i, node in enumerate(graph.node) if node.output[0] in products]
    wanted, owned = set(names), dict[int, str]()
    for i, node in enumerate(graph.node):
        if i in order or node.op_type in _LOOKUPS:
            weights = [name.partition(".weight")[0] for name in node.input if ".weight" in name]
            read = [*weights, *(name.removeprefix(_PREFIX) for name in weights)]
            owner = next((name for name in (*read, node.name, _module(node.name)) if name in wanted), "")
            owned |= {i: owner} if owner else {}
    if len(order) == len(names) and any(i not in owned for i in order):
        return dict(zip(order, names, strict=True))
    return owned


def _module(name: str) -> str:
    """Return the module in the name of a node, as `a.0` of `/model/a/a.0/Conv`, where containers stand before their members."""
    parts: list[str] = []
    for part in name.strip("/").split("/")[:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts.pop()
        parts.append(part)
    return ".".join(parts).removeprefix(_PREFIX)


def low_mean(seconds: Sequence[float]) -> float:
    """Return the mean of the lowest fifth of times: other processes only add, and the profiler rounds to microseconds."""
    return statistics.fmean(sorted(seconds)[: len(seconds) // 5 + 1])


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    return options
