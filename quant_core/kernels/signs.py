"""Loops of binary and ternary formats, compiled; conventions as in `fused`. Per-row figures are arrays [R or 1].

Sums are float64 in 16 lanes (element j goes to lane j mod 16) that are added in order at the end: one result on every machine, and loops
that LLVM makes vector instructions of.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import numba
import numpy as np

from quant_core.kernels.fused import F, N

_ABS = N(0x7FFFFFFF)
_LANES = 16


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _magnitude(row, lanes):
    """Return the sum of |row|."""
    whole, total = len(row) // _LANES, 0.0
    lanes[:] = 0.0
    for c in range(whole):
        for k in range(_LANES):
            lanes[k] += abs(np.float64(row[c * _LANES + k]))
    for j in range(whole * _LANES, len(row)):
        lanes[j - whole * _LANES] += abs(np.float64(row[j]))
    for k in range(_LANES):
        total += lanes[k]
    return total


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _add_signs(row, j, lane, t, lanes, counts):
    v = row[j]
    lanes[lane] += np.float64(-v if v < -t else F(0.0))
    lanes[_LANES + lane] += np.float64(v if v > t else F(0.0))
    counts[lane] += N(v < -t)
    counts[_LANES + lane] += N(v > t)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _sign_sums(row, t, lanes, counts):
    """Return (sum, count) of |x| over x < -t, then over x > t; `lanes` and `counts` are scratch of twice 16."""
    whole = len(row) // _LANES
    lanes[:], counts[:] = 0.0, 0
    for c in range(whole):
        for k in range(_LANES):
            _add_signs(row, c * _LANES + k, k, t, lanes, counts)
    for j in range(whole * _LANES, len(row)):
        _add_signs(row, j, j - whole * _LANES, t, lanes, counts)
    below = above = below_count = above_count = 0.0
    for k in range(_LANES):
        below += lanes[k]
        above += lanes[_LANES + k]
        below_count += counts[k]
        above_count += counts[_LANES + k]
    return below, below_count, above, above_count


@numba.njit(error_model="numpy", nogil=True, cache=True)
def magnitudes(x, first, last, out):
    """Write the sum of |x| to out[row], float64."""
    lanes = np.empty(_LANES)
    for r in range(first, last):
        out[r] = _magnitude(x[r], lanes)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def sign_sums(x, first, last, threshold, out):
    """Write to out[row] (sum, count) of |x| over x < -threshold, then over x > threshold, in float64."""
    lanes, counts = np.empty(2 * _LANES), np.empty(2 * _LANES, dtype=np.int32)
    for r in range(first, last):
        out[r, 0], out[r, 1], out[r, 2], out[r, 3] = _sign_sums(x[r], threshold[min(r, len(threshold) - 1)], lanes, counts)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _write_ternary(row, to, t, negative, positive):
    worst, n = N(0), -negative
    for j in range(len(row)):
        v = row[j]
        worst = max(worst, F(v).view(N) & _ABS)
        to[j] = positive if v > t else (n if v < -t else F(0.0))
    return worst


@numba.njit(error_model="numpy", nogil=True, cache=True)
def ternary(x, first, last, out, threshold, negative, positive):
    """Write `positive` where x > threshold, -`negative` where x < -threshold, else 0."""
    worst = N(0)
    for r in range(first, last):
        g = min(r, len(threshold) - 1)
        worst = max(worst, _write_ternary(x[r], out[r], threshold[g], negative[g], positive[g]))
    return worst


@numba.njit(error_model="numpy", nogil=True, cache=True)
def ternary_by_row(x, first, last, out, factor, of_mean):
    """Ternary with a threshold per row: `factor` x the mean magnitude and one level (TWN), else x the largest one and two levels (TTQ)."""
    lanes, counts, worst = np.empty(2 * _LANES), np.empty(2 * _LANES, dtype=np.int32), N(0)
    for r in range(first, last):
        row = x[r]
        if of_mean:
            t = F(factor * (_magnitude(row, lanes[:_LANES]) / len(row)))
        else:
            top = N(0)
            for j in range(len(row)):
                top = max(top, F(row[j]).view(N) & _ABS)
            t = F(factor * np.float64(N(top).view(F)))
        below, below_count, above, above_count = _sign_sums(row, t, lanes, counts)
        if of_mean:
            below = above = below + above
            below_count = above_count = below_count + above_count
        negative, positive = F(below / max(below_count, 1.0)), F(above / max(above_count, 1.0))
        worst = max(worst, _write_ternary(row, out[r], t, negative, positive))
    return worst


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _write_binary(row, to, scale):
    worst, minus = N(0), -scale if scale > F(0.0) else F(0.0)
    for j in range(len(row)):
        v = row[j]
        worst = max(worst, F(v).view(N) & _ABS)
        to[j] = scale if v >= F(0.0) else minus
    return worst


@numba.njit(error_model="numpy", nogil=True, cache=True)
def binary(x, first, last, out, scale):
    """Write `scale` where x >= 0, else -`scale`."""
    worst = N(0)
    for r in range(first, last):
        worst = max(worst, _write_binary(x[r], out[r], scale[min(r, len(scale) - 1)]))
    return worst


@numba.njit(error_model="numpy", nogil=True, cache=True)
def binary_by_row(x, first, last, out):
    """Write the mean magnitude of the row where x >= 0, else minus it."""
    lanes, worst = np.empty(_LANES), N(0)
    for r in range(first, last):
        worst = max(worst, _write_binary(x[r], out[r], F(_magnitude(x[r], lanes) / x.shape[1])))
    return worst
