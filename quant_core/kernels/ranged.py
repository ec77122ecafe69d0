"""Symmetric linear quantization with its min-max ranges in one pass: each row is measured and then quantized while it is in the cache."""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, operator"

import numba
import numpy as np

from quant_core.kernels.fused import F, N, symmetric16, tops16

_ABS, _EXPONENT, _HALF, _FRACTION = N(0x7FFFFFFF), N(0x7F800000), N(0x400000), N(0x7FFFFF)
_LANES = 16
_SMALLEST = F(2.0**-126)
STORAGE = {"fp32": 0, "fp16": 1, "e8m0": 2}


@numba.njit(error_model="numpy", nogil=True, cache=True, inline="always")
def _stored(top, divisor, ceiling, storage):
    """Return the scale of a range [-top, top] as `scales.store_scale` rounds it; `top` as float bits."""
    wanted = N(top).view(F) / divisor
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
        scale = _stored(top, divisor, ceiling, storage)
        inverse = F(1.0) / scale
        for j in range(len(row)):
            to[j] = min(max(np.rint(row[j] * inverse) + F(0.0), low), high) * scale
    return worst


@numba.njit(error_model="numpy", nogil=True, cache=True)
def by_group(x, first, last, out, low, high, ceiling, storage, block):
    """One scale per `block` columns, a multiple of 16 that divides the row."""
    count, per_group, worst = x.shape[1] // _LANES, block // _LANES, N(0)
    divisor = max(high, F(1.0))
    tops, scales, inverses = np.empty(count, dtype=N), np.empty(count, dtype=F), np.empty(count, dtype=F)
    for r in range(first, last):
        tops16(x[r], tops)
        for g in range(count // per_group):
            top = N(0)
            for k in range(per_group):
                top = max(top, tops[g * per_group + k])
            worst = max(worst, top)
            scale = _stored(top, divisor, ceiling, storage)
            for k in range(per_group):
                scales[g * per_group + k] = scale
        for c in range(count):
            inverses[c] = F(1.0) / scales[c]
        symmetric16(x[r], out[r], inverses, scales, low, high)
    return worst
