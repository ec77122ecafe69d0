"""The constants and nodes that give one quantized weight in an ONNX graph: packed integers under DequantizeLinear."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from quant_core.codecs import Encoded
from quant_core.codecs.minifloat import E2M1, E4M3
from quant_core.export.carriers import Carrier, tensor, weight_carrier
from quant_core.export.stored import StoredLayer
from quant_core.spec.formats import SCALE_BITS
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import InputError

_GRANULARITIES = ("tensor", "channel", "group", "vector")
_INSTEAD = {
    "kmeans": "intN:channel, or the safetensors format",
    "ternary": "int2:channel",
    "binary": "int2:channel, or the safetensors format",
    "mxint8": "int8:group32",
    "mxfp4": "nvfp4",
}


@dataclass
class GraphParts:
    """Nodes and constants of a graph, with the integer types that they use.

    Attributes:
        carried: (note of values that are stored in more bits than they have, layer).
        extra_bits: bits that the types take beyond those of the formats.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    carriers: list[Carrier] = field(default_factory=list)
    carried: list[tuple[str, str]] = field(default_factory=list)
    extra_bits: int = 0

    def carry(self, values: str, layer: str, kind: Carrier, bits: int, count: int = 0) -> None:
        """Note that `count` constants of `bits` bits are stored in a wider type."""
        if kind.bits > bits:
            self.carried.append((f"{values} are carried in {kind.name}", layer))
            self.extra_bits += (kind.bits - bits) * count

    def add(self, other: "GraphParts") -> None:
        """Add the constants and notes of `other`."""
        self.constants += other.constants
        self.carriers += other.carriers
        self.carried += other.carried
        self.extra_bits += other.extra_bits

    def integers(self, name: str, values: NDArray[Any], kind: Carrier) -> str:
        """Add a constant of integers; return its name."""
        self.constants.append(tensor(name, values, kind))
        self.carriers.append(kind)
        return name

    def floats(self, name: str, values: NDArray[Any]) -> str:
        """Add a float constant in its own type; return its name."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def e4m3(self, name: str, values: Tensor) -> str:
        """Add a constant of E4M3 numbers; return its name."""
        raw = E4M3.encode(values.to(torch.float64)).numpy().astype(np.uint8).tobytes()
        self.constants.append(helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, values.shape, raw, raw=True))
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: object) -> str:
        """Add a node; return its output."""
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output


def refusal(spec: QuantSpec) -> str:
    """Return why ONNX cannot represent a weight of `spec`, with an alternative, or "" where it can."""
    if spec.format == "nvfp4" or (spec.format == "int" and spec.granularity in _GRANULARITIES):
        return ""
    instead = _INSTEAD.get(spec.format, "intN:channel or intN:groupN" if spec.format == "int" else "int4:group32 or int8:group32")
    return f"ONNX has no operator for {spec}; use {instead}"


def weight(stored: StoredLayer, prefix: str, output: str) -> GraphParts:
    """Return the nodes and constants that compute the weight as `output`; constants and inner values are named after `prefix`.

    Raises:
        InputError: ONNX has no operator for the format.
    """
    spec, encoded = stored.policy.weight, stored.encoded
    fault = refusal(spec)
    if fault or encoded is None:
        raise InputError(f"layer {stored.layer.name!r}: {fault or 'its weight is float'}.")
    assert encoded.scale is not None
    parts = GraphParts()
    scaled = spec.granularity in ("tensor", "channel")
    shape, axis = (stored.layer.weight_shape, stored.layer.channel_axis) if scaled else (tuple(encoded.codes.shape), 1)
    values, carrier = _integers(spec, encoded, not stored.policy.activation.is_float)
    codes, fine = parts.integers(f"{prefix}.codes", _restored(values, shape, axis) if scaled else values, carrier), 0
    kind = carrier
    if scaled and stored.grid is not None:  # for integer kernels
        fine = finer(spec, encoded)
        codes, kind = _bytes(codes, kind, fine, parts)
    inputs = [codes, _scale(spec, replace(encoded, scale=encoded.scale / 2**fine), prefix, parts)]
    if encoded.zero_point is not None:
        inputs.append(parts.integers(f"{prefix}.zero_point", _fitted(spec, encoded.zero_point) * 2**fine, kind))
    attributes: dict[str, object] = {} if spec.granularity == "tensor" else {"axis": axis}
    if not scaled:
        attributes["block_size"] = min(spec.block, encoded.codes.shape[1])
    needs_shape = not scaled and (stored.layer.weight_shape != shape or stored.layer.channel_axis != 0)
    rows = parts.node("DequantizeLinear", inputs, f"{output}.rows" if needs_shape else output, **attributes)
    if needs_shape:
        _reshape(stored, rows, prefix, output, parts)
    parts.carry(f"{spec.bits}-bit {spec.format} weights", stored.layer.name, carrier, spec.bits, encoded.codes.numel())
    return parts


def finer(spec: QuantSpec, encoded: Encoded) -> int:
    """Return k such that 2^k codes of scale / 2^k, which are the same weights, fill 7 bits.

    onnxruntime rounds biases to steps of input scale x weight scale; k bits make them finer. Kernels of machines without VNNI add two
    products in 16 bits, which weights of 8 bits overflow.
    """
    scale = encoded.scale
    if scale is None or spec.scale != "fp32" or spec.format != "int":
        return 0
    bits = max(7 - spec.bits, 0)
    return bits if bool((scale / 2**bits * 2**bits == scale).all()) else 0


def _bytes(codes: str, kind: Carrier, fine: int, parts: GraphParts) -> tuple[str, Carrier]:
    """Return 2^fine codes in a type of 8 bits at least, computed once as a runtime loads the graph; the file holds the codes themselves."""
    wide = kind if kind.bits >= 8 else Carrier("UINT8" if kind.name.startswith("U") else "INT8", 8)
    if fine:
        integers = parts.node("Cast", [codes], f"{codes}.integers", to=TensorProto.INT32)
        factor = parts.floats(f"shift{fine}", np.array(2**fine, dtype=np.int32))
        codes = parts.node("Mul", [integers, factor], f"{codes}.finer")
    return codes if wide == kind and not fine else parts.node("Cast", [codes], f"{codes}.wide", to=wide.kind), wide


def _integers(spec: QuantSpec, encoded: Encoded, activation: bool) -> tuple[NDArray[Any], Carrier]:
    """Return the integers of the codes and the type that carries them."""
    if spec.format == "nvfp4":  # onnxruntime's CPU kernels do not take FLOAT4E2M1: twice an E2M1 number is an integer up to 12
        return (E2M1.decode(encoded.codes) * 2.0).numpy().astype(np.int16), weight_carrier(5, signed=True, activation=activation)
    kind = weight_carrier(spec.bits, signed=encoded.zero_point is None, activation=activation)
    narrow = np.int16 if encoded.codes.dtype == torch.uint8 else np.int64
    codes: NDArray[Any] = encoded.codes.numpy().astype(narrow)
    codes += narrow(encoded.low)
    return codes, kind


def _restored(values: NDArray[Any], shape: tuple[int, ...], axis: int) -> NDArray[Any]:
    """Return rows [channels, everything else] in the shape of the weight."""
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    return np.moveaxis(values.reshape(moved), 0, axis)


def _fitted(spec: QuantSpec, metadata: Tensor) -> NDArray[Any]:
    """Return per-block figures [R or 1, B] in the shape that DequantizeLinear takes: scalar, [C] or [R, B]."""
    values: NDArray[Any] = metadata.numpy()
    return values.reshape({"tensor": (), "channel": (-1,)}.get(spec.granularity, values.shape))


def _scale(spec: QuantSpec, encoded: Encoded, prefix: str, parts: GraphParts) -> str:
    """Add the scales, float32 in the graph, in few bytes in the file; return their name."""
    assert encoded.scale is not None
    name = f"{prefix}.scale"
    if encoded.coarse is not None:
        return _two_level(spec, encoded.scale, encoded.coarse, name, parts)
    values = _fitted(spec, encoded.scale)
    halves = values.astype(np.float16)
    if spec.scale in ("fp16", "e8m0") and bool((halves.astype(np.float32) == values).all()):
        parts.carry(f"{spec.scale} scales", prefix.removesuffix(".weight"), Carrier("FLOAT16", 16), SCALE_BITS[spec.scale], values.size)
        return parts.node("Cast", [parts.floats(name, halves)], f"{name}.float", to=TensorProto.FLOAT)
    parts.carry(f"{spec.scale} scales", prefix.removesuffix(".weight"), Carrier("FLOAT", 32), SCALE_BITS[spec.scale], values.size)
    return parts.floats(name, values)


def _two_level(spec: QuantSpec, fine: Tensor, coarse: Tensor, name: str, parts: GraphParts) -> str:
    """Return fine scales (integers of VSQuant, E4M3 of NVFP4) times float scales, computed in the graph."""
    factor = coarse.numpy() * np.float32(0.5 if spec.format == "nvfp4" else 1.0)
    top = parts.floats(f"{name}.coarse", factor.reshape(-1) if len(factor) > 1 else factor.reshape(()))
    if spec.format == "nvfp4":
        stored = parts.e4m3(name, fine)
        return parts.node("DequantizeLinear", [stored, top], f"{name}.float")
    bits = int(spec.scale[1:])
    kind = weight_carrier(bits, signed=False, activation=False)
    parts.carry(f"{bits}-bit scales", name.removesuffix(".weight.scale"), kind, bits, fine.numel())
    stored = parts.integers(name, fine.numpy(), kind)
    attributes = {"axis": 0} if len(factor) > 1 else {}
    return parts.node("DequantizeLinear", [stored, top], f"{name}.float", **attributes)


def _reshape(stored: StoredLayer, rows: str, prefix: str, output: str, parts: GraphParts) -> None:
    """Bring rows [channels, everything else] into the shape of the weight."""
    shape, axis = stored.layer.weight_shape, stored.layer.channel_axis
    moved = np.array((shape[axis], *shape[:axis], *shape[axis + 1 :]), dtype=np.int64)
    target = parts.floats(f"{prefix}.shape", moved)
    if axis == 0:
        parts.node("Reshape", [rows, target], output)
        return
    parts.node("Reshape", [rows, target], f"{output}.moved")
    order = [*range(1, axis + 1), 0, *range(axis + 1, len(shape))]
    parts.node("Transpose", [f"{output}.moved"], output, perm=order)
