"""Codes of the linear grid, and the values that they stand for, in one pass over memory: the bits of `quant_core.codecs.affine`."""

# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import numba
import numpy as np

_F = np.float32


@numba.njit(error_model="numpy", nogil=True, cache=True)
def to_codes(x, first, last, out, inverse, zero, low, high, block):
    """Write clamp(round(x inverse) + zero, low, high) - low as uint8; the grids are [R or 1, B] in blocks of `block` columns."""
    many = inverse.shape[0] > 1
    for r in range(first, last):
        g = r if many else 0
        for b in range(inverse.shape[1]):
            part, to = x[r, b * block : (b + 1) * block], out[r, b * block : (b + 1) * block]
            step, shift = inverse[g, b], zero[g, b]
            for j in range(len(part)):
                to[j] = np.uint8(min(max(np.rint(part[j] * step) + shift, low), high) - low)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def to_values(codes, first, last, out, scale, zero, low, block):
    """Write (code + low - zero) scale; grids as for `to_codes`."""
    many = scale.shape[0] > 1
    for r in range(first, last):
        g = r if many else 0
        for b in range(scale.shape[1]):
            part, to = codes[r, b * block : (b + 1) * block], out[r, b * block : (b + 1) * block]
            step, shift = scale[g, b], zero[g, b]
            for j in range(len(part)):
                to[j] = (_F(part[j]) + low - shift) * step
