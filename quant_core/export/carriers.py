"""Which ONNX type carries a code, the types that the installed onnxruntime executes, and the layout of integers in a tensor of few bits."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from quant_core.util.errors import BitfrontError

OPSET, IR = 21, 10
_NEWER = {"INT2": (25, 13), "UINT2": (25, 13)}
_WIDTHS = {"INT2": 2, "INT4": 4, "INT8": 8, "INT16": 16}
_PIECE = 2**22
_UNSUPPORTED = (errors.NotImplemented, errors.Fail, errors.InvalidGraph, errors.InvalidArgument, errors.RuntimeException)


@dataclass(frozen=True, slots=True)
class Carrier:
    """An ONNX integer type: its name in `TensorProto`, and its bits."""

    name: str
    bits: int

    @property
    def kind(self) -> int:
        """The number of the type."""
        return int(TensorProto.DataType.Value(self.name))

    @property
    def opset(self) -> int:
        """The first opset whose DequantizeLinear takes it."""
        return _NEWER.get(self.name, (OPSET, IR))[0]

    @property
    def ir(self) -> int:
        """The first IR version that has it."""
        return _NEWER.get(self.name, (OPSET, IR))[1]

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and largest integer."""
        half = 2 ** (self.bits - 1)
        return (0, 2 * half - 1) if self.name.startswith("U") else (-half, half - 1)


def weight_carrier(bits: int, *, signed: bool, activation: bool) -> Carrier:
    """Return the narrowest type of at least `bits` bits that the installed onnxruntime takes for weights, with quantized inputs or not."""
    return _narrowest(bits, signed, lambda kind: executes(kind, Carrier("UINT8", 8) if activation else None))


def activation_carrier(bits: int, *, signed: bool) -> Carrier:
    """Return the narrowest type of at least `bits` bits that the installed onnxruntime takes for the inputs of layers."""
    return _narrowest(bits, signed, lambda kind: executes(Carrier("INT8", 8), kind))


def _narrowest(bits: int, signed: bool, fits: Callable[[Carrier], bool]) -> Carrier:
    for name, width in _WIDTHS.items():
        carrier = Carrier(name if signed else f"U{name}", width)
        if width >= bits and fits(carrier):
            return carrier
    raise BitfrontError(f"onnxruntime {onnxruntime.__version__} executes no integers of {bits} bits; install a newer one.")


@cache
def executes(weight: Carrier, activation: Carrier | None) -> bool:
    """Tell whether the installed onnxruntime runs two convolutions with weights and inputs of these types (None: float inputs).

    Its optimisations fuse such a network, and fail for some types that the single operators take.
    """
    constants = [helper.make_tensor("scale", TensorProto.FLOAT, (), [0.5]), tensor("w", np.zeros((4, 4, 1, 1), dtype=np.int64), weight)]
    nodes = [helper.make_node("DequantizeLinear", ["w", "scale"], ["d"])]
    value = "x"
    if activation is not None:
        constants.append(tensor("zero", np.zeros((), dtype=np.int64), activation))
    for layer in range(2):
        if activation is not None:
            nodes.append(helper.make_node("QuantizeLinear", [value, "scale", "zero"], [f"q{layer}"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"q{layer}", "scale", "zero"], [f"i{layer}"]))
            value = f"i{layer}"
        nodes.append(helper.make_node("Conv", [value, "d"], [f"o{layer}"]))
        value = f"o{layer}"
    newest = max(weight, activation or weight, key=lambda kind: kind.opset)
    ends = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 2, 2])] for name in ("x", value))
    graph = helper.make_graph(nodes, "probe", *ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", newest.opset)], ir_version=newest.ir)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        session.run(None, {"x": np.zeros((1, 4, 2, 2), dtype=np.float32)})
    except _UNSUPPORTED:
        return False
    return True


def tensor(name: str, integers: NDArray[Any], kind: Carrier) -> onnx.TensorProto:
    """Return a constant of a carrier's type; below 8 bits the first value stands in the lowest bits."""
    flat = integers.reshape(-1)
    raw = b"".join(_packed(flat[first : first + _PIECE], kind) for first in range(0, len(flat), _PIECE))
    return helper.make_tensor(name, kind.kind, integers.shape, raw, raw=True)


def _packed(integers: NDArray[Any], kind: Carrier) -> bytes:
    """Return the bytes of integers [n]; all but the last of several pieces hold a multiple of 8."""
    integers = integers.astype(np.int64)
    if kind.bits >= 8:
        return integers.astype(f"<{'u' if kind.name.startswith('U') else 'i'}{kind.bits // 8}").tobytes()
    per_byte = 8 // kind.bits
    padded = np.zeros(-(-len(integers) // per_byte) * per_byte, dtype=np.int64)
    padded[: len(integers)] = integers & (2**kind.bits - 1)
    packed: NDArray[np.uint8] = (padded.reshape(-1, per_byte) << np.arange(0, 8, kind.bits)).sum(axis=1).astype(np.uint8)
    return packed.tobytes()
