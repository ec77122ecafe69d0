"""A quantized weight in OpenVINO's operations: packed codes under Convert, Subtract and Multiply, in the forms that its CPU plugin fuses.

Measured with OpenVINO 2026.4 on a CPU with AVX-512 VNNI:

- A linear layer of float inputs takes packed codes of 2, 4 and 8 bits, with one zero point or one per block, and unpacks them as it
  multiplies.
- Of a layer of quantized inputs the plugin computes by integers where it sees int8 weights. Codes of fewer bits are therefore converted to
  int8, and centred there, before they become floats: constants, which it computes once as it loads the file.
- Codes of 3 and 6 bits have types (u3, u6), but no kernel reads them; they are stored in 4 and 8 bits.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant_core.export.openvino import library
from quant_core.export.stored import StoredLayer
from quant_core.spec.formats import SCALE_BITS
from quant_core.spec.quant_spec import QuantSpec

_GRANULARITIES = ("tensor", "channel", "group")
_WIDTHS = (2, 4, 8, 16)


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """A weight in OpenVINO's operations.

    Attributes:
        output: of the last operation, float32 in the shape of the weight.
        kind: the type of the codes, as `u4`; f32 of a float weight.
        payload, extra: bytes of codes, scales and zero points, and those beyond the format's.
        buffers: memory that constants share; to be kept until the model is written.
    """

    output: Any
    kind: str
    payload: int
    extra: float
    buffers: tuple[NDArray[Any], ...] = ()


def refusal(spec: QuantSpec) -> str:
    """Return why a file of OpenVINO cannot hold a weight of `spec`, with an alternative, or "" where it can."""
    if spec.is_float or (spec.format == "int" and spec.granularity in _GRANULARITIES):
        return ""
    return f"OpenVINO's CPU plugin reads no {spec}; use intN:channel or intN:group32"


def stored_bits(bits: int) -> int:
    """Return the bits in which a code of `bits` bits is stored."""
    return next(width for width in _WIDTHS if width >= bits)


def code_type(layer: StoredLayer) -> str:
    """Return the type of a layer's codes: signed where int8 kernels are wanted, but for 2 bits, which have no signed type."""
    bits, affine = layer.policy.weight.bits, layer.encoded is not None and layer.encoded.zero_point is not None
    width = stored_bits(bits)
    return f"u{width}" if width == 2 or affine else f"i{width}"


def weight(layer: StoredLayer, name: str) -> StoredWeight:
    """Return a layer's weight; its constant of codes is named `name`."""
    ov = library()
    op = ov.opset13
    if layer.encoded is None or refusal(layer.policy.weight):
        values = layer.weight.detach().float().contiguous().numpy()
        constant = op.constant(values)
        constant.set_friendly_name(name)
        return StoredWeight(constant.output(0), "f32", 0 if layer.encoded is None else values.nbytes, 0.0)
    spec = layer.policy.weight
    kind = code_type(layer)
    codes, scale, zeros = _blocks(layer)
    bits, offset, packed = int(kind[1:]), _offset(layer), packed_codes(layer)
    constant = ov.op.Constant(ov.Tensor(packed, ov.Shape(list(codes.shape)), getattr(ov.Type, kind)))
    constant.set_friendly_name(name)
    if zeros is None and offset:
        zeros = np.full((1,) * codes.ndim, offset)
    output, points = _centred(constant.output(0), kind, zeros, layer)
    output = op.multiply(output, _scales(scale, spec)).output(0)
    scale_bytes = scale.size * (2 if _halves(scale, spec) else 4)
    payload = packed.nbytes + scale_bytes + sum(point.nbytes for point in points)
    extra = codes.size * (bits - spec.bits) / 8 + scale_bytes - scale.size * SCALE_BITS[spec.scale] / 8
    return StoredWeight(_shaped(output, layer), kind, payload, extra, (packed, *points))


def packed_codes(layer: StoredLayer) -> NDArray[np.uint8]:
    """Return the bytes of a layer's codes as its file has them."""
    return _packed(_blocks(layer)[0] + _offset(layer), int(code_type(layer)[1:]))


def _offset(layer: StoredLayer) -> int:
    """Return the code that stands for zero where the stored type has no sign and the format has one."""
    return 2 if code_type(layer) == "u2" and layer.encoded is not None and layer.encoded.zero_point is None else 0


def _centred(output: Any, kind: str, zeros: NDArray[np.int64] | None, layer: StoredLayer) -> tuple[Any, tuple[NDArray[np.uint8], ...]]:
    """Return float codes less their zero points, and the bytes of these, which have the type of the codes."""
    ov = library()
    op, bits = ov.opset13, int(kind[1:])
    if zeros is None:
        between = [output, op.convert(output, "i8").output(0)] if _by_integers(layer) and bits < 8 else [output]
        return op.convert(between[-1], "f32").output(0), ()
    packed = _packed(zeros, bits)
    point = ov.op.Constant(ov.Tensor(packed, ov.Shape(list(zeros.shape)), getattr(ov.Type, kind))).output(0)
    if _by_integers(layer) and bits < 8:
        output = op.subtract(op.convert(output, "i8"), op.convert(point, "i8")).output(0)
        return op.convert(output, "f32").output(0), (packed,)
    return op.subtract(op.convert(output, "f32"), op.convert(point, "f32")).output(0), (packed,)


def _by_integers(layer: StoredLayer) -> bool:
    """Tell whether the plugin has an int8 kernel for a layer: quantized inputs, and one scale per row of weights."""
    return layer.grid is not None and not _grouped(layer)


def _grouped(layer: StoredLayer) -> bool:
    """Tell whether a row of weights has several scales."""
    return layer.encoded is not None and layer.encoded.scale is not None and layer.encoded.scale.shape[1] > 1


def _blocks(layer: StoredLayer) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64] | None]:
    """Return the codes, scales and zero points of a weight in shapes that broadcast.

    Per tensor and channel the codes are in the shape of the weight; in groups they are [rows, blocks, block], the last one filled up.
    """
    spec, encoded, shape, axis = layer.policy.weight, layer.encoded, layer.layer.weight_shape, layer.layer.channel_axis
    assert encoded is not None
    assert encoded.scale is not None
    codes = encoded.codes.numpy().astype(np.int64) + encoded.low
    scale = encoded.scale.numpy().astype(np.float32)
    zeros = None if encoded.zero_point is None else encoded.zero_point.numpy().astype(np.int64)
    if _grouped(layer):
        rows, columns = codes.shape
        block = min(spec.block, columns)
        filled = np.zeros((rows, -(-columns // block) * block), dtype=np.int64)
        filled[:, :columns] = codes
        return filled.reshape(rows, -1, block), scale[..., None], None if zeros is None else zeros[..., None]
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    along = [1] * len(shape)
    along[axis] = 1 if spec.granularity == "tensor" else -1
    restored = np.moveaxis(codes.reshape(moved), 0, axis)
    return restored, scale.reshape(along), None if zeros is None else zeros.reshape(along)


def _shaped(output: Any, layer: StoredLayer) -> Any:
    """Bring rows of groups into the shape of the weight."""
    op, shape, axis = library().opset13, layer.layer.weight_shape, layer.layer.channel_axis
    if not _grouped(layer):
        return output
    assert layer.encoded is not None
    rows, columns = layer.encoded.codes.shape
    output = op.reshape(output, np.array([rows, -1]), False).output(0)
    if int(output.get_shape()[1]) != columns:
        output = op.slice(output, np.array([0]), np.array([columns]), np.array([1]), np.array([1])).output(0)
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    if moved != (rows, columns):
        output = op.reshape(output, np.array(moved), False).output(0)
    if axis:
        output = op.transpose(output, np.array([*range(1, axis + 1), 0, *range(axis + 1, len(shape))])).output(0)
    return output


def _scales(scale: NDArray[np.float32], spec: QuantSpec) -> Any:
    op = library().opset13
    return op.convert(op.constant(scale.astype(np.float16)), "f32") if _halves(scale, spec) else op.constant(scale)


def _halves(scale: NDArray[np.float32], spec: QuantSpec) -> bool:
    """Tell whether scales are stored in 16 bits: the format has them so, and none changes."""
    return spec.scale in ("fp16", "e8m0") and bool((scale.astype(np.float16).astype(np.float32) == scale).all())


def _packed(codes: NDArray[np.int64], bits: int) -> NDArray[np.uint8]:
    """Return codes in bytes, in two's complement, the first one in the lowest bits."""
    flat = codes.reshape(-1)
    if bits >= 8:
        return np.ascontiguousarray((flat & (2**bits - 1)).astype(f"<u{bits // 8}")).view(np.uint8)
    per_byte = 8 // bits
    lanes = np.zeros(-(-len(flat) // per_byte) * per_byte, dtype=np.int64)
    lanes[: len(flat)] = flat & (2**bits - 1)
    packed: NDArray[np.uint8] = (lanes.reshape(-1, per_byte) << np.arange(0, 8, bits)).sum(axis=1).astype(np.uint8)
    return packed
