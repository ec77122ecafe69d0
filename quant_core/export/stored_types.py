"""The types that an ONNX file really stores, read back and compared with the policy."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quant_core.export.constants import refusal
from quant_core.export.lookups import moved
from quant_core.export.stored import StoredLayer
from quant_core.util.errors import BitfrontError
from quant_core.util.text import first_fault

_PIECE = 2**22


def stored_types(path: Path, stored: Sequence[StoredLayer]) -> str:
    """Return the types of the quantized weights of a file with how many layers have them, as `INT4 x 3, INT8 x 1`.

    Raises:
        BitfrontError: the codes of a layer are missing, or are not as many as its weights, or are not those of its bits.
    """
    graph = onnx.load(path).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    packed = {node.input[1]: int(helper.get_node_attr_value(node, "bits")) for node in graph.node if node.op_type == "MatMulNBits"}
    for node in graph.node:
        if node.op_type == "GatherBlockQuantized" and tensors[node.input[0]].data_type == TensorProto.UINT8:
            tensors[node.input[0]] = _two_bits(tensors[node.input[0]], signed=len(node.input) < 4)
    types, faults = Counter[str](), []
    for layer in stored:
        if layer.encoded is None:
            continue
        name = next((name for name in (f"{layer.layer.name}.weight.codes", f"{layer.owner}.weight.codes") if name in tensors), "")
        fault = _fault(layer, tensors[name], packed.get(name)) if name else _dequantized(layer)
        if fault:
            faults.append(f"layer {layer.layer.name!r}: {fault}")
        elif name:
            types[f"{packed[name]} bits" if name in packed else TensorProto.DataType.Name(tensors[name].data_type)] += 1
        else:
            types["FLOAT"] += 1
    if faults:
        raise BitfrontError(f"{first_fault(faults)}. Nothing was written.")
    return ", ".join(f"{kind} x {count}" for kind, count in sorted(types.items())) or "FLOAT"


def _fault(layer: StoredLayer, tensor: onnx.TensorProto, packed: int | None) -> str:
    """Return how the stored codes differ from those of the layer, or ""."""
    assert layer.encoded is not None
    spec, codes = layer.policy.weight, layer.encoded.codes.numpy()
    if packed is not None:
        least = codes.size * packed // 8
        short = len(tensor.raw_data) < least or packed < spec.bits
        return f"{spec} is stored as {len(tensor.raw_data)} bytes of {packed}-bit codes, at least {least} are due" * short
    values = numpy_helper.to_array(tensor)
    kind = TensorProto.DataType.Name(tensor.data_type)
    if values.size != codes.size:
        return f"{values.size} codes in {kind} are stored, {codes.size} of {spec} are due"
    if spec.format == "int" and _counts(values, 0) != _counts(codes, layer.encoded.low):
        return f"the codes in {kind} are not those of {spec}"
    return ""


def _two_bits(tensor: onnx.TensorProto, *, signed: bool) -> onnx.TensorProto:
    """Return codes of which a byte holds four, the first in the lowest bits, in a type of their own."""
    raw = moved(tensor.raw_data) if signed else tensor.raw_data
    rows, columns = tensor.dims
    return helper.make_tensor(tensor.name, TensorProto.INT2 if signed else TensorProto.UINT2, [rows, columns * 4], raw, raw=True)


def _counts(integers: NDArray[Any], low: int) -> Counter[int]:
    """Return how often every integer + `low` occurs."""
    counts, flat = Counter[int](), integers.reshape(-1)
    for first in range(0, len(flat), _PIECE):
        distinct, times = np.unique(flat[first : first + _PIECE].astype(np.int64) + low, return_counts=True)
        counts.update(dict(zip(distinct.tolist(), times.tolist(), strict=True)))
    return counts


def _dequantized(layer: StoredLayer) -> str:
    """Return a fault where a weight is stored without codes although ONNX has an operator for it."""
    return "" if refusal(layer.policy.weight) else f"its {layer.policy.weight} codes are not in the file"
