"""A written model of OpenVINO, read back: the types that it stores, and the kernels by which the CPU plugin computes its layers."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant_core.export.kernels import Kernels, LayerKernel
from quant_core.export.node_times import low_mean
from quant_core.export.openvino import library, storage
from quant_core.export.stored import StoredLayer
from quant_core.util.errors import BitfrontError
from quant_core.util.text import first_fault

OPTIONS = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
"""f32: where the processor has bfloat16 instructions, the plugin would compute float layers in bfloat16."""
NO_INTEGERS = {"LP_TRANSFORMS_MODE": "NO", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""The options under which quantized layers, and those of packed weights, are computed in float32, from the same file."""
_COMPRESSED = ("u2", "u4", "i4", "u8", "i8")
_CONVOLUTIONS = ("Convolution", "Deconvolution")
_PRODUCTS = ("FullyConnected", "MatMul")


def stored_types(path: Path, stored: Sequence[StoredLayer]) -> str:
    """Return the types of the quantized weights of a file with how many layers have them, as `i4 x 3, i8 x 1`.

    Raises:
        BitfrontError: the codes of a layer are missing, or are not as many as its weights, or are not those of its bits.
    """
    model = library().Core().read_model(str(path))
    constants = {node.get_friendly_name(): node for node in model.get_ops() if node.get_type_name() == "Constant"}
    types, faults = Counter[str](), []
    for layer in stored:
        if layer.encoded is None:
            continue
        name = next((name for name in (f"{layer.layer.name}.weight.codes", f"{layer.owner}.weight.codes") if name in constants), "")
        kind = constants[name].get_element_type().get_type_name() if name else ""
        fault = _fault(layer, constants[name], kind) if name else "its codes are not in the file"
        if fault:
            faults.append(f"layer {layer.layer.name!r}: {fault}")
        types[kind] += 1
    if faults:
        raise BitfrontError(f"{first_fault(faults)}. Nothing was written.")
    return ", ".join(f"{kind} x {count}" for kind, count in sorted(types.items())) or "f32"


def _fault(layer: StoredLayer, constant: Any, kind: str) -> str:
    """Return how the stored codes differ from those of the layer, or ""."""
    spec, encoded = layer.policy.weight, layer.encoded
    assert encoded is not None
    due = "f32" if storage.refusal(spec) else storage.code_type(layer)
    if kind != due:
        return f"{spec} is stored as {kind}, {due} is due"
    if due == "f32":
        return ""
    stored = np.ascontiguousarray(np.asarray(constant.get_data())).reshape(-1).view(np.uint8)
    wanted = storage.packed_codes(layer)
    if stored.size != wanted.size:
        return f"{stored.size} bytes of codes in {kind} are stored, {wanted.size} of {spec} are due"
    return "" if np.array_equal(stored, wanted) else f"the codes in {kind} are not those of {spec}"


def compiled(
    path: Path, *, shapes: Mapping[str, Sequence[int]] | None = None, threads: int = 1, count: bool = False, integers: bool = True
) -> Any:
    """Return a file compiled for the CPU.

    Args:
        path: the .xml.
        shapes: of the inputs by name; without them the batch is of any size.
        threads: of one request.
        count: measure the time of every operation.
        integers: with int8 kernels, as by default.

    Raises:
        BitfrontError: OpenVINO does not take the file.
    """
    ov = library()
    core = ov.Core()
    options = {**OPTIONS, "INFERENCE_NUM_THREADS": threads, "PERF_COUNT": "YES" if count else "NO"} | ({} if integers else NO_INTEGERS)
    try:
        model = core.read_model(str(path))
        if shapes:
            model.reshape({name: list(shape) for name, shape in shapes.items()})
        return core.compile_model(model, "CPU", options)
    except Exception as error:  # its errors share no base class
        lines = [line for line in str(error).strip().splitlines() if line]
        raise BitfrontError(f"OpenVINO {ov.__version__} does not take the file: {lines[-1] if lines else error}") from error


def kernels(path: Path, names: Sequence[str], *, shapes: Mapping[str, Sequence[int]] | None = None, integers: bool = True) -> Kernels:
    """Return the kernels by which the CPU plugin computes the layers of a file that `representation` made.

    Args:
        path: the .xml.
        names: of the layers.
        shapes, integers: as `compiled`.

    Raises:
        BitfrontError: OpenVINO does not take the file.
    """
    layers = layer_nodes(compiled(path, shapes=shapes, integers=integers), names)
    rows = [LayerKernel(name, kind, kernel) for name, (_, kind, kernel) in layers.items()]
    return Kernels.of(rows)


def layer_nodes(model: Any, names: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """Return layer -> (name of its node in the compiled model, "conv", "linear" or another kind, kernel in words)."""
    wanted, rows = set(names), dict[str, tuple[str, str, str]]()
    for node in model.get_runtime_model().get_ordered_ops():
        facts = {key: str(value.value if hasattr(value, "value") else value) for key, value in node.get_rt_info().items()}
        kind = facts.get("layerType", "")
        for original in facts.get("originalLayersNames", "").split(","):
            name = re.split(r"\||/WithoutBiases|/Dequantization", original)[0].removesuffix("_original")
            if name in wanted and (name not in rows or kind in (*_CONVOLUTIONS, *_PRODUCTS)):
                rows[name] = (node.get_friendly_name(), _kind(kind), _kernel(kind, facts))
    return {name: rows[name] for name in names if name in rows}


def node_seconds(
    path: Path, names: Sequence[str], arrays: Mapping[str, NDArray[Any]], threads: int, repeats: int
) -> list[tuple[str, float]]:
    """Return (layer or "", seconds) of every operation, in the order of execution; layers that are one operation share it equally.

    Args:
        path: the .xml, as `representation` made it.
        names: of the layers.
        arrays: inputs of one call, by name.
        threads: of one request.
        repeats: calls that are measured, after a fifth as many that are not.
    """
    model = compiled(path, shapes={name: values.shape for name, values in arrays.items()}, threads=threads, count=True)
    layers: dict[str, list[str]] = {}
    for name, (node, _, _) in layer_nodes(model, names).items():
        layers.setdefault(node, []).append(name)
    request = model.create_infer_request()
    times: dict[str, list[float]] = {}
    for i in range(repeats + repeats // 5):
        request.infer(arrays)
        for row in request.get_profiling_info() if i >= repeats // 5 else []:
            if str(row.status).endswith("EXECUTED"):
                times.setdefault(row.node_name, []).append(row.real_time.total_seconds())
    rows = [(layers.get(node, [""]), low_mean(seconds)) for node, seconds in times.items()]
    return [(name, seconds / len(owners)) for owners, seconds in rows for name in owners]


def _kind(kind: str) -> str:
    return "conv" if kind in _CONVOLUTIONS else "linear" if kind in _PRODUCTS else kind.lower()


def _kernel(kind: str, facts: Mapping[str, str]) -> str:
    """Return int8, N-bit weights, or float32."""
    primitive, precision = facts.get("primitiveType", ""), facts.get("runtimePrecision", "")
    if primitive.lower().endswith(("_i8", "_u8")) and kind in (*_CONVOLUTIONS, *_PRODUCTS):
        return "int8"
    if kind in ("FullyConnected", "Gather") and precision in _COMPRESSED:
        return f"{precision[1:]}-bit weights"
    return "float32"
