"""Linear quantization with its min-max ranges in one pass: each row is measured and then quantized while it is in the cache."""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, operator"

import numba
import numpy as np

from quant_core.kernels.fused import F, N, amax16, symmetric16

_ABS, _EXPONENT, _HALF, _FRACTION = N(0x7FFFFFFF), N(0x7F800000), N(0x400000), N(0x7FFFFF)
_LANES = 16
_SMALLEST = F(2.0**-126)
STORAGE = {"fp32": 0, "fp16": 1, "e8m0": 2}


@numba.njit(error_model="numpy", nogil=True, cache=True, inline="always")
def _stored(wanted, ceiling, storage):
    """Return the scale `wanted` as `scales.store_scale` rounds it."""
    scale = min(max(wanted, _SMALLEST), ceiling)
    if storage == 1:
        scale = min(max(scale, F(2.0**-24)), F(65504.0))
        c = N(max(F(scale).view(N) & _EXPONENT, N(113 << 23)) + N((13 << 23) | _HALF)).view(F)
        scale = (scale + c) - c
    if storage == 2:
        power = N((F(scale).view(N) + _FRACTION) & _EXPONENT)
        scale = N(min(power, F(ceiling).view(N) & _EXPONENT)).view(F)
    return scale if wanted > F(0.0) else F(1.0)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def by_row(x, first, last, out, low, high, ceiling, storage):
    """One scale per row."""
    worst, divisor = N(0), max(high, F(1.0))
    for r in range(first, last):
        row, to, top = x[r], out[r], N(0)
        for j in range(len(row)):
            top = max(top, F(row[j]).view(N) & _ABS)
        worst = max(worst, top)
        scale = _stored(N(top).view(F) / divisor, ceiling, storage)
        inverse = F(1.0) / scale
        for j in range(len(row)):
            to[j] = min(max(np.rint(row[j] * inverse) + F(0.0), low), high) * scale
    return worst


@numba.njit(error_model="numpy", nogil=True, cache=True)
def by_group(x, first, last, out, low, high, ceiling, storage, block):
    """One scale per `block` columns, a multiple of 16 that divides the row."""
    count, per_group, worst = x.shape[1] // _LANES, block // _LANES, N(0)
    divisor = max(high, F(1.0))
    amaxes, scales, inverses = np.empty(count, dtype=N), np.empty(count, dtype=F), np.empty(count, dtype=F)
    for r in range(first, last):
        amax16(x[r], amaxes)
        for g in range(count // per_group):
            top = N(0)
            for k in range(per_group):
                top = max(top, amaxes[g * per_group + k])
            worst = max(worst, top)
            scale = _stored(N(top).view(F) / divisor, ceiling, storage)
            for k in range(per_group):
                scales[g * per_group + k] = scale
        for c in range(count):
            inverses[c] = F(1.0) / scales[c]
        symmetric16(x[r], out[r], inverses, scales, low, high)
    return worst


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _minmax(part):
    """Return (low, high), the smallest and largest of `part` and 0, as integers of the same order: float bits, negative ones mirrored."""
    low = high = N(0)
    for j in range(len(part)):
        bits = F(part[j]).view(N)
        key = bits ^ ((bits >> 31) & _ABS)
        low, high = min(low, key), max(high, key)
    return low, high


@numba.njit(error_model="numpy", nogil=True, cache=True, inline="always")
def _value(key):
    return N(key ^ ((key >> 31) & _ABS)).view(F)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def block_minmax(x, first, last, block, low, high):
    """Write to low[row, b] and high[row, b] the ends of every block, widened to 0; the last block of a row may be short."""
    worst = N(0)
    for r in range(first, last):
        for b in range(low.shape[1]):
            bottom, top = _minmax(x[r, b * block : (b + 1) * block])
            worst = max(worst, N(top), N(~bottom))
            low[r, b], high[r, b] = _value(bottom), _value(top)
    return worst


@numba.njit(error_model="numpy", nogil=True, cache=True)
def affine(x, first, last, out, high, ceiling, storage, block):
    """Affine codes [0, high], one scale and zero point per `block` columns; the last block of a row may be short."""
    worst = N(0)
    for r in range(first, last):
        for start in range(0, x.shape[1], block):
            part, to = x[r, start : start + block], out[r, start : start + block]
            bottom, top = _minmax(part)
            worst = max(worst, N(top), N(~bottom))
            scale = _stored((_value(top) - _value(bottom)) / high, ceiling, storage)
            zero = min(max(-np.rint(_value(bottom) / scale), F(0.0)), high) + F(0.0)
            inverse = F(1.0) / scale
            for j in range(len(part)):
                to[j] = (min(max(np.rint(part[j] * inverse) + zero, F(0.0)), high) - zero) * scale
    return worst
