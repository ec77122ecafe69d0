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


def node_seconds(
    path: Path, names: Sequence[str], arrays: Mapping[str, NDArray[Any]], threads: int, repeats: int
) -> list[tuple[str, float]]:
    """Return (layer or "", seconds) of every operation, in the order of execution.

    Args:
        path: the file.
        names: of the layers in network order; operations with constant weights are theirs in this order, where there are as many.
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
    weighted = {node.name for node, _ in layer_operators(model.graph)}
    order = [name for name in times if name in weighted]
    layers = dict(zip(order, names, strict=True)) if len(order) == len(names) else {}
    return [(layers.get(name, ""), low_mean(seconds)) for name, seconds in times.items()]


def low_mean(seconds: Sequence[float]) -> float:
    """Return the mean of the lowest fifth of times: other processes only add, and the profiler rounds to microseconds."""
    return statistics.fmean(sorted(seconds)[: len(seconds) // 5 + 1])


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    return options
