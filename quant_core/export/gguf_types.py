"""The tensor types of GGUF that hold a weight of a policy exactly, and the bytes of their blocks. Free of the gguf library.

A value is d q (or d q + m): d and m are float16, q integers (https://github.com/ggml-org/llama.cpp: ggml/src/ggml-common.h has the blocks,
ggml/src/ggml-quants.c the functions `dequantize_row_*`). The K types have a two-level scale per 256 values. Ours has one level: its scale
becomes d, and every 6-bit or 4-bit scale within is 1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant_core.codecs import Encoded
from quant_core.codecs.scales import to_bits
from quant_core.spec.quant_spec import QuantSpec

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]
BLOCK, SUPER = 32, 256
GRANULARITIES = ("tensor", "channel", "group")


@dataclass(frozen=True)
class Kind:
    """A type of GGUF for integers.

    Attributes:
        name: in `gguf.GGMLQuantizationType`.
        block: values of a block.
        size: bytes of a block.
        low, high: the integers that it holds.
    """

    name: str
    block: int
    size: int
    low: int
    high: int

    @property
    def bits(self) -> float:
        """Bits per value."""
        return 8 * self.size / self.block


INTEGERS = (
    Kind("Q2_K", SUPER, 84, -2, 1),
    Kind("Q3_K", SUPER, 110, -4, 3),
    Kind("Q4_0", BLOCK, 18, -8, 7),
    Kind("Q5_0", BLOCK, 22, -16, 15),
    Kind("Q6_K", SUPER, 210, -32, 31),
    Kind("Q8_0", BLOCK, 34, -128, 127),
)
"""From the smallest to the largest."""
AFFINE = {2: Kind("Q2_K", SUPER, 84, 0, 3), 4: Kind("Q4_K", SUPER, 144, 0, 15), 5: Kind("Q5_K", SUPER, 176, 0, 31)}
"""Bits -> the type of integers from 0 with a minimum that is a multiple of the scale."""
WITH_MINIMUM = {4: Kind("Q4_1", BLOCK, 20, 0, 15), 5: Kind("Q5_1", BLOCK, 24, 0, 31)}
"""Bits -> the type of integers from 0 with any float16 minimum."""
FLOATS = {"mxfp4": Kind("MXFP4", 32, 17, 0, 15), "nvfp4": Kind("NVFP4", 64, 36, 0, 15), "ternary": Kind("TQ2_0", SUPER, 66, -1, 1)}


def refusal(spec: QuantSpec, columns: int, *, rounded: bool = False) -> str:
    """Return why GGUF holds no weight of `spec` with rows of `columns` values, with an alternative, or "".

    Args:
        spec: of the weight.
        columns: values of a row.
        rounded: scales and levels are rounded to float16.
    """
    if spec.is_float:
        return ""
    if spec.format not in ("int", *FLOATS) or spec.bits > 8 or spec.granularity not in (*GRANULARITIES, "block"):
        return f"GGUF has no type for {spec}; use int4:group32, int8:group32 or mxfp4"
    if spec.clipping == "ttq":
        return f"GGUF has no type of two levels for {spec}; use ternary:twn:fp16"
    if spec.format in ("int", "ternary") and spec.scale == "fp32" and not rounded:
        return f"scales of GGUF are float16, those of {spec} float32; use {_in_half(spec)}, or --round-scales"
    if spec.format == "int" and not spec.symmetric and spec.bits == 8:
        return f"GGUF has no type of 8 bits with a zero point, for {spec}; use int8:group32"
    block = FLOATS[spec.format].block if spec.format in FLOATS else BLOCK
    if columns % block:
        return f"rows of {columns} values are no multiple of GGUF's blocks of {block} for {spec}; leave the layer in float"
    if spec.granularity == "group" and spec.block % BLOCK and spec.block < columns:
        return f"groups of {spec.block} are no multiple of GGUF's blocks of 32; use int{spec.bits}:group32"
    return ""


def _in_half(spec: QuantSpec) -> str:
    return f"{spec}:fp16" if spec.format == "int" else f"ternary:{spec.clipping}:fp16"


def kind_of(spec: QuantSpec, columns: int) -> Kind:
    """Return the smallest type that holds every weight of `spec` with rows of `columns` values; `refusal` is ""."""
    if spec.format in FLOATS:
        return FLOATS[spec.format]
    one_scale = columns % SUPER == 0 and (spec.granularity != "group" or spec.block % SUPER == 0 or spec.block >= columns)
    span = 2**spec.bits - 1
    if not spec.symmetric and one_scale and spec.bits in AFFINE:
        return AFFINE[spec.bits]
    low, high = (-span - 1) // 2 if spec.symmetric else -span, span // 2 if spec.symmetric else span
    fitting = [kind for kind in INTEGERS if kind.low <= low and high <= kind.high and (one_scale or kind.block == BLOCK)]
    return fitting[0]


def packed(encoded: Encoded, spec: QuantSpec, *, rounded: bool = False) -> tuple[Kind, Bytes]:
    """Return the type of a weight and its rows of bytes, [R, C / block * size].

    An affine weight whose minima are float16 numbers, all of them (or `rounded`), is stored with them: Q4_1, Q5_1.
    """
    rows, columns = encoded.codes.shape
    kind = kind_of(spec, columns)
    if spec.format in ("mxfp4", "nvfp4"):
        codes = encoded.codes.numpy()
        return kind, (_mxfp4 if spec.format == "mxfp4" else _nvfp4)(codes, encoded).reshape(rows, -1)
    scale = _expanded(encoded.scale, rows, columns, spec)
    if spec.format == "ternary":
        return kind, _tq2_0(encoded.codes.numpy().reshape(-1, SUPER), scale[:, ::SUPER].reshape(-1, 1)).reshape(rows, -1)
    codes = encoded.codes.numpy().astype(np.int64)
    zero = -encoded.low + np.zeros_like(scale, dtype=np.int64)
    if encoded.zero_point is not None:
        zero = _expanded(encoded.zero_point, rows, columns, spec).astype(np.int64)
    if encoded.zero_point is not None and kind.block == BLOCK and spec.bits in WITH_MINIMUM:
        least = -zero.astype(np.float32) * scale
        if rounded or np.array_equal(least.astype(np.float16).astype(np.float32), least):
            kind = WITH_MINIMUM[spec.bits]
            return kind, _with_minimum(kind, codes.reshape(-1, BLOCK), scale, least).reshape(rows, -1)
    step = kind.block
    scales = scale[:, ::step].reshape(-1, 1).astype(np.float16)
    if kind in AFFINE.values():
        return kind, _affine(kind.name, codes.reshape(-1, step), scales, zero[:, ::step].reshape(-1, 1)).reshape(rows, -1)
    return kind, _symmetric(kind.name, (codes - zero).reshape(-1, step), scales).reshape(rows, -1)


def _expanded(stored: Any, rows: int, columns: int, spec: QuantSpec) -> NDArray[np.float32]:
    """Return the scale of every value, [R, C] float32."""
    values: NDArray[np.float32] = stored.numpy()
    block = min(spec.block, columns) if spec.granularity == "group" else columns
    return np.broadcast_to(np.repeat(values, block, axis=1)[:, :columns], (rows, columns))


def _half(values: NDArray[Any]) -> Bytes:
    return np.ascontiguousarray(values, dtype="<f2").view(np.uint8).reshape(len(values), -1)


def _nibbles(codes: Integers) -> Bytes:
    """Return [N, 32] integers as 16 bytes: the first half in the low bits."""
    low, high = codes[:, :16] & 15, codes[:, 16:] & 15
    return (low | high << 4).astype(np.uint8)


def _high_bits(codes: Integers) -> Bytes:
    """Return bit 4 of [N, 32] integers as 4 bytes."""
    return np.packbits((codes >> 4 & 1).astype(np.uint8), axis=1, bitorder="little")


def _with_minimum(kind: Kind, codes: Integers, scale: NDArray[np.float32], least: NDArray[np.float32]) -> Bytes:
    parts = [_half(scale[:, ::BLOCK].reshape(-1, 1)), _half(least[:, ::BLOCK].reshape(-1, 1))]
    parts += [_high_bits(codes)] if kind.name == "Q5_1" else []
    return np.concatenate([*parts, _nibbles(codes)], axis=1)


def _symmetric(name: str, values: Integers, scales: NDArray[np.float16]) -> Bytes:
    """Return the blocks of integers [N, block] with scales [N, 1]."""
    if name == "Q4_0":
        return np.concatenate([_half(scales), _nibbles(values + 8)], axis=1)
    if name == "Q5_0":
        return np.concatenate([_half(scales), _high_bits(values + 16), _nibbles(values + 16)], axis=1)
    if name == "Q8_0":
        return np.concatenate([_half(scales), values.astype(np.int8).view(np.uint8)], axis=1)
    if name == "Q2_K":
        return _affine(name, values + 2, scales, np.full((len(values), 1), 2))
    return _q3_k(values, scales) if name == "Q3_K" else _q6_k(values, scales)


def _crumbs(codes: Integers) -> Bytes:
    """Return 2-bit integers [N, 256] as 64 bytes: of every 128, value 32 k + i stands in bits 2 k of byte i."""
    parts = codes.reshape(len(codes), 2, 4, 32) & 3
    packed_crumbs: Bytes = (parts << np.array([0, 2, 4, 6]).reshape(1, 1, 4, 1)).sum(axis=2).astype(np.uint8).reshape(len(codes), 64)
    return packed_crumbs


def _affine(name: str, codes: Integers, scales: NDArray[np.float16], zero: Integers) -> Bytes:
    """Return K blocks of d (q - Z), [N, 256] integers from 0: scales 1 and minima Z, with d = dmin."""
    count = len(codes)
    if name == "Q2_K":
        inner = np.repeat(1 | zero << 4, 16, axis=1).astype(np.uint8)
        return np.concatenate([inner, _crumbs(codes), _half(scales), _half(scales)], axis=1)
    ones, least = np.ones((count, 4), dtype=np.int64), np.repeat(zero, 4, axis=1)
    packed_scales = np.concatenate([ones, least, ones | least << 4], axis=1)
    packed_scales[:, 8:] = 1 | (least & 15) << 4
    packed_scales[:, 4:8] = least | (least >> 4) << 6
    halves = codes.reshape(count, 4, 2, 32)
    low = (halves[:, :, 0] & 15 | (halves[:, :, 1] & 15) << 4).reshape(count, 128)
    high = []
    if name == "Q5_K":
        bits = codes.reshape(count, 8, 32) >> 4 & 1
        high = [(bits << np.arange(8).reshape(1, 8, 1)).sum(axis=1).astype(np.uint8)]
    return np.concatenate([_half(scales), _half(scales), packed_scales.astype(np.uint8), *high, low.astype(np.uint8)], axis=1)


def _q3_k(values: Integers, scales: NDArray[np.float16]) -> Bytes:
    """Return blocks of integers -4 .. 3: bit 2 of q + 4 in the mask, scales of 6 bits at 33 - 32."""
    codes = values + 4
    mask = ((codes.reshape(-1, 8, 32) >> 2 & 1) << np.arange(8).reshape(1, 8, 1)).sum(axis=1).astype(np.uint8)
    ones = np.tile(np.array([0x11] * 8 + [0xAA] * 4, dtype=np.uint8), (len(codes), 1))
    return np.concatenate([mask, _crumbs(codes), ones, _half(scales)], axis=1)


def _q6_k(values: Integers, scales: NDArray[np.float16]) -> Bytes:
    """Return blocks of integers -32 .. 31. 128 values are four parts of 32: nibbles of 0 with 2, 1 with 3, then high bits."""
    parts = (values + 32).reshape(-1, 2, 4, 32)
    low = (parts[:, :, :2] & 15) | (parts[:, :, 2:] & 15) << 4
    high = (parts >> 4 << np.array([0, 2, 4, 6]).reshape(1, 1, 4, 1)).sum(axis=2)
    ones = np.ones((len(parts), 16), dtype=np.uint8)
    return np.concatenate([low.reshape(-1, 128).astype(np.uint8), high.reshape(-1, 64).astype(np.uint8), ones, _half(scales)], axis=1)


def _tq2_0(codes: Bytes, scales: NDArray[np.float32]) -> Bytes:
    return np.concatenate([_crumbs(codes.astype(np.int64)), _half(scales)], axis=1)


def _mxfp4(codes: Bytes, encoded: Encoded) -> Bytes:
    assert encoded.scale is not None
    exponents = to_bits(encoded.scale, "e8m0").numpy().astype(np.uint8).reshape(-1, 1)
    return np.concatenate([exponents, _nibbles(codes.reshape(-1, 32).astype(np.int64))], axis=1)


def _nvfp4(codes: Bytes, encoded: Encoded) -> Bytes:
    """Return 4 scales of 16 values and their nibbles: of 16 values the first 8 in the low bits. The scale of the tensor is not in them."""
    assert encoded.scale is not None
    scales = to_bits(encoded.scale, "e4m3").numpy().astype(np.uint8).reshape(-1, 4)
    parts = codes.reshape(-1, 4, 2, 8)
    return np.concatenate([scales, (parts[:, :, 0] | parts[:, :, 1] << 4).reshape(-1, 32)], axis=1)
