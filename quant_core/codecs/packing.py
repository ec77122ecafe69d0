"""Bit-exact packing: every code at its bit width, every scale, zero point, codebook and exponent in its storage type.

The fields of a format follow each other without padding, each a little-endian stream of bits; only the last byte is filled up with zeros.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant_core.codecs import Bounds, Encoded, Field, codec
from quant_core.codecs.quantize import decode, encode
from quant_core.codecs.scales import from_bits, to_bits
from quant_core.spec.formats import SCALE_BITS
from quant_core.spec.quant_spec import QuantSpec, parse
from quant_core.util.errors import InputError

_CHUNK = 1 << 16
Bits = NDArray[np.uint8]


def pack(
    tensor: Tensor,
    spec: str | QuantSpec,
    *,
    channel_axis: int = 0,
    bounds: Bounds | None = None,
    generator: torch.Generator | None = None,
) -> bytes:
    """Return `tensor` as `spec` stores it: ceil(`spec.storage_bits(shape)` / 8) bytes. Arguments as for `fake_quantize`.

    An empty tensor takes no bytes.

    Raises:
        InputError: as `fake_quantize`; also bounds that make a symmetric spec unsigned, which the bytes could not tell.
    """
    spec = parse(spec) if isinstance(spec, str) else spec
    if tensor.numel() == 0:
        return b""
    encoded = encode(tensor, spec, channel_axis=channel_axis, bounds=bounds, generator=generator)
    return pack_encoded(encoded, spec)


def pack_encoded(encoded: Encoded, spec: QuantSpec) -> bytes:
    """Return the bytes of what `quantize.encode` gave.

    Raises:
        InputError: the codes are of an unsigned activation.
    """
    form = codec(spec)
    if encoded.low != form.lowest(spec):
        raise InputError(f"bounds with lo >= 0 make {spec} unsigned, which packed bytes cannot tell; pack it as affine.")
    pieces: list[bytes] = []
    rest: Bits = np.zeros(0, dtype=np.uint8)
    for field in form.layout(spec, *encoded.codes.shape):
        stored = _tensor(encoded, field).reshape(-1)
        for start in range(0, len(stored), _CHUNK):
            values = to_bits(stored[start : start + _CHUNK], field.storage).cpu().numpy()
            rest = np.concatenate([rest, _to_bit_array(values, width(field))])
            whole = len(rest) // 8 * 8
            pieces.append(np.packbits(rest[:whole], bitorder="little").tobytes())
            rest = rest[whole:]
    return b"".join(pieces) + np.packbits(rest, bitorder="little").tobytes()


def unpack(
    data: bytes, spec: str | QuantSpec, shape: tuple[int, ...], *, channel_axis: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the tensor of `shape` that `pack` stored: `unpack(pack(x))` equals `fake_quantize(x)` bit for bit.

    Raises:
        InputError: `data` has not the length that `spec` and `shape` need.
    """
    spec = parse(spec) if isinstance(spec, str) else spec
    if math.prod(shape) == 0:
        return torch.empty(shape, dtype=dtype)
    return decode(unpack_encoded(data, spec, shape, channel_axis=channel_axis), spec, shape, channel_axis=channel_axis, dtype=dtype)


def unpack_encoded(data: bytes, spec: QuantSpec, shape: tuple[int, ...], *, channel_axis: int = 0) -> Encoded:
    """Return the codes and metadata of packed bytes.

    Raises:
        InputError: `data` has not the length that `spec` and `shape` need, or `shape` is empty.
    """
    needed = -(-spec.storage_bits(shape, channel_axis) // 8)
    if len(data) != needed or not needed:
        raise InputError(f"{len(data)} bytes given; {spec} of shape {shape} takes {needed} bytes, more than none.")
    form = codec(spec)
    source, position = np.frombuffer(data, dtype=np.uint8), 0
    tensors: dict[str, Tensor] = {}
    for field in form.layout(spec, *row_shape(spec, shape, channel_axis)):
        count, bits = math.prod(field.shape), width(field)
        values = torch.from_numpy(_read(source, position, count, bits))
        position += count * bits
        tensors[field.name] = _typed(from_bits(values, field.storage), field).reshape(field.shape)
    return Encoded(low=form.lowest(spec), **tensors)


def row_shape(spec: QuantSpec, shape: tuple[int, ...], channel_axis: int) -> tuple[int, int]:
    """Return (R, C) of a tensor of `shape` seen as rows, as `quantize.as_rows` does."""
    count = math.prod(shape)
    if not shape:
        return 1, 1
    if spec.granularity == "token":
        return count // shape[-1], shape[-1]
    return shape[channel_axis], count // shape[channel_axis]


def width(field: Field) -> int:
    """Return the bits of one value of `field`."""
    return int(field.storage[1:]) if field.storage.startswith("u") else SCALE_BITS[field.storage]


def _tensor(encoded: Encoded, field: Field) -> Tensor:
    tensor: Tensor | None = getattr(encoded, field.name)
    if tensor is None or tuple(tensor.shape) != field.shape:
        described = "nothing" if tensor is None else f"shape {tuple(tensor.shape)}"
        raise InputError(f"encoded tensor has {described} for {field.name!r}; shape {field.shape} is needed.")
    return tensor


def _typed(values: Tensor, field: Field) -> Tensor:
    """Return integer fields in the dtype that `encode` gives them."""
    if not field.storage.startswith("u") or field.storage == "u32":
        return values
    if field.name == "zero_point":
        return values.to(torch.float32)
    return values.to(torch.uint8 if width(field) <= 8 else torch.int32)


def _to_bit_array(values: NDArray[np.int64], bits: int) -> Bits:
    """Return the lowest `bits` bits of every value, the lowest first, one per byte."""
    as_bytes = values.astype("<u4").view(np.uint8).reshape(-1, 4)
    return np.unpackbits(as_bytes, axis=1, bitorder="little")[:, :bits].reshape(-1)


def _read(source: Bits, position: int, count: int, bits: int) -> NDArray[np.int64]:
    """Return `count` values of `bits` bits from bit `position` on."""
    values = np.empty(count, dtype=np.int64)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        first, last = position + start * bits, position + stop * bits
        stream = np.unpackbits(source[first // 8 : -(-last // 8)], bitorder="little")[first % 8 : first % 8 + last - first]
        wide = np.zeros((stop - start, 32), dtype=np.uint8)
        wide[:, :bits] = stream.reshape(-1, bits)
        values[start:stop] = np.packbits(wide, axis=1, bitorder="little").view("<u4")[:, 0]
    return values
