"""The storage of scales: rounding a positive float32 to its storage type, and the bits of a stored value."""

import torch
from torch import Tensor

from quant_core.codecs.minifloat import E4M3, floor_log2

FLOAT_MAX = torch.finfo(torch.float32).max
FLOAT_MIN = torch.finfo(torch.float32).tiny
_HALF_MIN, _HALF_MAX = 2.0**-24, 65504.0


def power_of_two(exponents: Tensor) -> Tensor:
    """Return 2^exponents, exact, as float32; exponents in [-149, 127]."""
    return torch.ldexp(torch.ones_like(exponents, dtype=torch.float64), exponents).to(torch.float32)


def store_scale(scale: Tensor, kind: str, ceiling: float) -> Tensor:
    """Round positive scales to their storage `kind`, as float32, in a range where 1 / scale is finite and scale <= ceiling.

    fp16 rounds to nearest, within its smallest subnormal and its largest number; e8m0 rounds up to a power of two (never clips), down
    only under the ceiling; 0 becomes 1.
    """
    scale = torch.where(scale > 0, scale.clamp(FLOAT_MIN, ceiling), 1.0).to(torch.float32)
    if kind == "fp16":
        return scale.clamp(_HALF_MIN, _HALF_MAX).to(torch.float16).to(torch.float32)
    if kind == "e8m0":
        exponent = floor_log2(scale)
        exponent = torch.where(power_of_two(exponent) < scale, exponent + 1, exponent)
        top = int(floor_log2(torch.tensor(ceiling, dtype=torch.float64)))
        return power_of_two(exponent.clamp(-126, top))
    return scale


def to_bits(values: Tensor, storage: str) -> Tensor:
    """Return the bits of stored values as non-negative int64."""
    if storage == "fp32":
        return values.to(torch.float32).contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    if storage == "fp16":
        return values.to(torch.float16).contiguous().view(torch.int16).to(torch.int64) & 0xFFFF
    if storage == "e8m0":
        return (floor_log2(values) + 127).to(torch.int64)
    if storage == "e4m3":
        return E4M3.encode(values.to(torch.float64)).to(torch.int64)
    return values.to(torch.int64)


def from_bits(bits: Tensor, storage: str) -> Tensor:
    """Return the values of stored bits: float32 of floats and scales, the integers themselves of `u<bits>` and `s<bits>`."""
    if storage == "fp32":
        return bits.to(torch.int32).view(torch.float32)
    if storage == "fp16":
        return bits.to(torch.int16).view(torch.float16).to(torch.float32)
    if storage == "e8m0":
        return power_of_two(bits - 127)
    if storage == "e4m3":
        return E4M3.decode(bits)
    return bits.to(torch.float32) if storage.startswith("s") else bits
