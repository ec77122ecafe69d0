"""Loops of binary and ternary formats, compiled; conventions as in `fused`. Per-row figures are arrays [R or 1]."""

# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import numba
import numpy as np

F, N = np.float32, np.int32
_ABS = N(0x7FFFFFFF)


@numba.njit(nogil=True, cache=True)
def sides(x, first, last, threshold, out):
    """Write to out[row] (sum, count) of |x| over x < -threshold, then over x > threshold, in float64, one after the other."""
    for r in range(first, last):
        t = threshold[min(r, len(threshold) - 1)]
        below = below_count = above = above_count = 0.0
        for j in range(x.shape[1]):
            v = np.float64(x[r, j])
            is_below, is_above = v < -t, v > t
            below -= v if is_below else 0.0
            below_count += 1.0 if is_below else 0.0
            above += v if is_above else 0.0
            above_count += 1.0 if is_above else 0.0
        out[r, 0], out[r, 1], out[r, 2], out[r, 3] = below, below_count, above, above_count


@numba.njit(nogil=True, cache=True)
def ternary(x, first, last, out, threshold, negative, positive):
    """Write `positive` where x > threshold, -`negative` where x < -threshold, else 0."""
    worst = N(0)
    for r in range(first, last):
        g = min(r, len(threshold) - 1)
        t, n, p = threshold[g], -negative[g], positive[g]
        for j in range(x.shape[1]):
            v = x[r, j]
            worst = max(worst, F(v).view(N) & _ABS)
            out[r, j] = p if v > t else (n if v < -t else F(0.0))
    return worst


@numba.njit(nogil=True, cache=True)
def binary(x, first, last, out, scale):
    """Write `scale` where x >= 0, else -`scale`."""
    worst = N(0)
    for r in range(first, last):
        s = scale[min(r, len(scale) - 1)]
        for j in range(x.shape[1]):
            v = x[r, j]
            worst = max(worst, F(v).view(N) & _ABS)
            out[r, j] = s if v >= F(0.0) else -s
    return worst
