"""Loops over the rows of a block matrix, compiled by numba, one thread per slice of rows. float32 in, float32 out.

A row is a sample: `points` [B, n], with `weights` [B, n] (the counts of a histogram) or None (numba then leaves them out of the loops).
Sums go in 64 lanes (element j to lane j mod 64) that are added in order: the order is not the compiler's to choose, so that a process
that compiles, one that reads numba's cache and one on another machine get the same bits, and LLVM still makes vector instructions of them.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, assignment, no-untyped-call, untyped-decorator"

from collections.abc import Callable

import numba
import numpy as np
from numpy.typing import NDArray

from quant_core.clipping.lanes import LANES as _LANES
from quant_core.clipping.lanes import add_errors, add_lanes, load, place_of, work_space
from quant_core.kernels.run import over_rows

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Kernel = Callable[..., None]
_PER_THREAD = 1 << 16
_CHUNK = 4096
_ROUGH = 1e-5  # of an error: several times what the order of the additions of its lanes can change
_EMPTY = 1e-30


def search_rows(kernel: Kernel, matrix: NDArray[np.generic], *rest: object) -> None:
    """Run `kernel(matrix, first_row, last_row, *rest)` over the rows; a search is worth a thread from fewer elements than a quantizer."""
    over_rows(kernel, matrix, *rest, per_thread=_PER_THREAD)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _rough_errors(place, scale, low, high):
    """Return (E, C, Q) of codes k = clamp(round(x / scale), low, high): sums of w r^2, w r k, w k^2 with r = x - k scale.

    They are off by less than 2e-6 of E, C of sqrt(E Q), Q; the lanes of the last chunk stay in the work space at `place`.
    """
    error = cross = square = 0.0
    for chunk in range(0, place[1], _CHUNK):
        part = add_errors(place, chunk, min(chunk + _CHUNK, place[1]), scale, low, high)
        error, cross, square = error + part[0], cross + part[1], square + part[2]
    return error, cross, square


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _errors(place, scale, low, high, fresh):
    """Return (E, C, Q) with lanes added in order. `fresh`: the lanes of a row of one chunk are not in the work space yet."""
    error = cross = square = 0.0
    for chunk in range(0, place[1], _CHUNK):
        if fresh or place[1] > _CHUNK:
            add_errors(place, chunk, min(chunk + _CHUNK, place[1]), scale, low, high)
        error, cross, square = add_lanes(place, error, cross, square)
    return error, cross, square


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _try(place, scale, zero, levels, best):
    """Score codes [-zero, levels - zero] at `scale` with their least-squares scale; return (error, scale, zero) if better, else `best`.

    For fixed codes k the best scale is scale + C / Q and the error there E - C^2 / Q; rounding anew can only lower it. Most candidates are
    far from the best one: their lanes are not added up in order.
    """
    if scale <= _EMPTY:
        return best
    single, low, high = np.float32(scale), np.float32(-zero), np.float32(levels - zero)
    error, cross, square = _rough_errors(place, single, low, high)
    if square > 0.0 and error - cross * cross / square > best[0] + _ROUGH * error:
        return best
    error, cross, square = _errors(place, single, low, high, False)
    if square > 0.0:
        moved = scale + cross / square
        if moved > _EMPTY:
            error -= cross * cross / square
            scale = moved
    return (error, scale, zero) if error < best[0] else best


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _polish(place, levels, slack, best):
    """Refine `best`: nearby scales at halving distance, zero points up to `slack` away, then least-squares steps until none helps."""
    width = 0.024
    for _ in range(5):
        scale, zero = best[1], best[2]
        for shift in range(-slack, slack + 1):
            moved = zero + shift
            if 0 <= moved <= levels:
                for step in (-1.0, 0.0, 1.0):
                    if step != 0.0 or shift != 0:
                        best = _try(place, scale * (1.0 + step * width), moved, levels, best)
        width *= 0.5
    for _ in range(10):
        before = best[0]
        best = _try(place, best[1], best[2], levels, best)
        if not best[0] < before * (1.0 - 1e-6):
            break
    return best


@numba.njit(nogil=True, cache=True)
def mse_symmetric(points, first, last, weights, low, high, grid, out):
    """Write to out[row] the scale with the least error of codes [low, high]; `grid` holds fractions of the min-max scale."""
    space = work_space(points, weights)
    place = place_of(space, points, weights)
    for row in range(first, last):
        load(space, points, weights, row)
        top, best = np.max(np.abs(points[row])), (np.inf, 0.0, -low)
        if 0.0 < top < np.inf:
            for fraction in grid:
                best = _try(place, top / max(high, 1.0) * fraction, -low, high - low, best)
            best = _polish(place, high - low, 0, best)
        out[row] = best[1]


@numba.njit(nogil=True, cache=True)
def mse_power_of_two(points, first, last, weights, low, high, out):
    """Write to out[row] the power of two with the least error of codes [low, high]."""
    space = work_space(points, weights)
    place = place_of(space, points, weights)
    for row in range(first, last):
        load(space, points, weights, row)
        top, best, least = np.max(np.abs(points[row])), np.inf, 0.0
        if _EMPTY < top < np.inf:
            scale = 2.0 ** np.ceil(np.log2(top / max(high, 1.0)))
            for _ in range(12):
                error = _errors(place, np.float32(scale), np.float32(low), np.float32(high), True)[0]
                if error < best:
                    best, least = error, scale
                scale *= 0.5
        out[row] = least


@numba.njit(nogil=True, cache=True)
def mse_affine(points, first, last, weights, levels, grid, out):
    """Write to out[row] (scale, zero point) with the least error of `levels` steps: scales of `grid` times five zero points each."""
    space = work_space(points, weights)
    place = place_of(space, points, weights)
    for row in range(first, last):
        load(space, points, weights, row)
        low, high = min(np.min(points[row]), 0.0), max(np.max(points[row]), 0.0)
        best = (np.inf, 0.0, 0.0)
        if 0.0 < high - low < np.inf:
            for fraction in grid:
                scale = (high - low) / levels * fraction
                left = min(max(np.rint(-low / scale), 0.0), levels)
                right = min(max(levels - np.rint(high / scale), 0.0), levels)
                before = -1.0
                for part in range(5):
                    zero = np.rint(right + (left - right) * part / 4.0)
                    if zero != before:
                        best = _try(place, scale, zero, levels, best)
                    before = zero
            best = _polish(place, levels, 1, best)
        out[row, 0], out[row, 1] = best[1], best[2]


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _add_beyond(values, w, end, sums):
    count, total = sums
    for j in range(len(values)):
        above = np.float32(values[j] > end) if w is None else np.float32(values[j] > end) * w[j]
        count[j] += above
        total[j] += above * values[j]


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _beyond(values, w, end, sums):
    """Return (weight, sum) of the values above `end`; `sums` is scratch: two arrays of float32 [64]."""
    n, count, total = len(values), 0.0, 0.0
    for chunk in range(0, n, _CHUNK):
        stop, used = min(chunk + _CHUNK, n), min(_LANES, n - chunk)
        for lanes in sums:
            lanes[:used] = 0.0
        for start in range(chunk, stop, _LANES):
            last = min(start + _LANES, stop)
            _add_beyond(values[start:last], None if w is None else w[start:last], end, sums)
        for lane in range(used):
            count += sums[0][lane]
            total += sums[1][lane]
    return count, total


@numba.njit(nogil=True, cache=True)
def _lanes():
    return np.empty(_LANES, dtype=np.float32)


@numba.njit(nogil=True, cache=True)
def octav(points, first, last, weights, noise, symmetric, out):
    """Write to out[row] the range (low, high) of OCTAV's fixed point (Sakr et al., ICML 2022, equation 7), to 1e-6 in at most 30 steps.

    `noise` is 4^-bits. The noise model (high - low)^2 noise / 12 inside and the clipped tails give, for each end with the other one kept,
    high = (sum of x > high + low t) / (count of x > high + t) with t = noise / 12 x count inside; low = -high and low = 0 are the paper's
    signed and unsigned forms.
    """
    sums = _lanes(), _lanes()
    for row in range(first, last):
        x, w = points[row], None if weights is None else weights[row]
        low = high = 0.0
        magnitudes, mirrored = np.abs(x), -x
        filled = _beyond(magnitudes, w, np.float32(0.0), sums)[0]
        for _ in range(30):
            was_low, was_high = low, high
            if symmetric:
                count, total = _beyond(magnitudes, w, np.float32(high), sums)
                count += noise / 3.0 * (filled - count)
                high = total / count if count > 0.0 else 0.0
                low = -high
            else:
                above, above_sum = _beyond(x, w, np.float32(high), sums)
                below, below_sum = _beyond(mirrored, w, np.float32(-low), sums)
                t = noise / 12.0 * (filled - above - below)
                high = max((above_sum + low * t) / (above + t), 0.0) if above + t > 0.0 else 0.0
                low = min((was_high * t - below_sum) / (below + t), 0.0) if below + t > 0.0 else 0.0
            if abs(high - was_high) + abs(low - was_low) <= 1e-6 * (high - low):
                break
        out[row, 0], out[row, 1] = low, high
