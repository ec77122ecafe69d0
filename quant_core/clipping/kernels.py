"""Loops over the rows of a block matrix, compiled by numba, one thread per slice of rows. float32 in, float32 out.

A row is a sample: `points` [B, n], with `weights` [B, n] (the counts of a histogram) or None (numba then leaves them out of the loops).
"""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, assignment, no-untyped-call, untyped-decorator"

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Kernel = Callable[..., None]
_FAST = {"reassoc", "contract", "arcp", "nsz"}
_CHUNK = 4096
_EMPTY = 1e-30


def over_rows(kernel: Kernel, matrix: NDArray[np.generic], *rest: object) -> None:
    """Run `kernel(matrix, first_row, last_row, *rest)` on slices of rows, as many at once as torch uses threads."""
    rows = len(matrix)
    threads = min(torch.get_num_threads(), max(1, matrix.size >> 16), rows)
    if threads <= 1:
        kernel(matrix, 0, rows, *rest)
        return
    edges = [rows * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(kernel, matrix, a, b, *rest) for a, b in itertools.pairwise(edges)]
        for job in jobs:
            job.result()


@numba.njit(fastmath=_FAST, nogil=True, cache=True)
def _errors(x, w, scale, low, high):
    """Return (E, C, Q) of codes k = clamp(round(x / scale), low, high): sums of w r^2, w r k, w k^2 with r = x - k scale."""
    inverse, n = np.float32(1.0) / scale, len(x)
    error = cross = square = 0.0
    for start in range(0, n, _CHUNK):
        e = c = q = np.float32(0.0)
        for j in range(start, min(start + _CHUNK, n)):
            k = np.rint(min(max(x[j] * inverse, low), high))
            r = x[j] - k * scale
            if w is None:
                e += r * r
                c += r * k
                q += k * k
            else:
                e += w[j] * r * r
                c += w[j] * r * k
                q += w[j] * k * k
        error += e
        cross += c
        square += q
    return error, cross, square


@numba.njit(nogil=True, cache=True)
def _try(x, w, scale, zero, levels, best):
    """Score codes [-zero, levels - zero] at `scale` with their least-squares scale; write (error, scale, zero) to `best` if better.

    For fixed codes k the best scale is scale + C / Q and the error there E - C^2 / Q; rounding anew can only lower it.
    """
    if scale <= _EMPTY:
        return
    error, cross, square = _errors(x, w, np.float32(scale), np.float32(-zero), np.float32(levels - zero))
    if square > 0.0:
        moved = scale + cross / square
        if moved > _EMPTY:
            error -= cross * cross / square
            scale = moved
    if error < best[0]:
        best[0], best[1], best[2] = error, scale, zero


@numba.njit(nogil=True, cache=True)
def _polish(x, w, levels, slack, best):
    """Refine `best`: nearby scales at halving distance, zero points up to `slack` away, then least-squares steps until none helps."""
    width = 0.024
    for _ in range(5):
        scale, zero = best[1], best[2]
        for shift in range(-slack, slack + 1):
            moved = zero + shift
            if 0 <= moved <= levels:
                for step in (-1.0, 0.0, 1.0):
                    if step != 0.0 or shift != 0:
                        _try(x, w, scale * (1.0 + step * width), moved, levels, best)
        width *= 0.5
    for _ in range(10):
        before = best[0]
        _try(x, w, best[1], best[2], levels, best)
        if not best[0] < before * (1.0 - 1e-6):
            break


@numba.njit(nogil=True, cache=True)
def mse_symmetric(points, first, last, weights, low, high, grid, out):
    """Write to out[row] the scale with the least error of codes [low, high]; `grid` holds fractions of the min-max scale."""
    best = np.empty(3)
    for row in range(first, last):
        x, w = points[row], None if weights is None else weights[row]
        top = np.max(np.abs(x))
        best[0], best[1], best[2] = np.inf, 0.0, -low
        if 0.0 < top < np.inf:
            for fraction in grid:
                _try(x, w, top / max(high, 1.0) * fraction, -low, high - low, best)
            _polish(x, w, high - low, 0, best)
        out[row] = best[1]


@numba.njit(nogil=True, cache=True)
def mse_power_of_two(points, first, last, weights, low, high, out):
    """Write to out[row] the power of two with the least error of codes [low, high]."""
    for row in range(first, last):
        x, w = points[row], None if weights is None else weights[row]
        top, best, found = np.max(np.abs(x)), np.inf, 0.0
        if _EMPTY < top < np.inf:
            scale = 2.0 ** np.ceil(np.log2(top / max(high, 1.0)))
            for _ in range(12):
                error = _errors(x, w, np.float32(scale), np.float32(low), np.float32(high))[0]
                if error < best:
                    best, found = error, scale
                scale *= 0.5
        out[row] = found


@numba.njit(nogil=True, cache=True)
def mse_affine(points, first, last, weights, levels, grid, out):
    """Write to out[row] (scale, zero point) with the least error of `levels` steps: scales of `grid` times five zero points each."""
    best = np.empty(3)
    for row in range(first, last):
        x, w = points[row], None if weights is None else weights[row]
        low, high = min(np.min(x), 0.0), max(np.max(x), 0.0)
        best[0], best[1], best[2] = np.inf, 0.0, 0.0
        if 0.0 < high - low < np.inf:
            for fraction in grid:
                scale = (high - low) / levels * fraction
                left = min(max(np.rint(-low / scale), 0.0), levels)
                right = min(max(levels - np.rint(high / scale), 0.0), levels)
                before = -1.0
                for part in range(5):
                    zero = np.rint(right + (left - right) * part / 4.0)
                    if zero != before:
                        _try(x, w, scale, zero, levels, best)
                    before = zero
            _polish(x, w, levels, 1, best)
        out[row, 0], out[row, 1] = best[1], best[2]


@numba.njit(fastmath=_FAST, nogil=True, cache=True)
def _beyond(values, w, end):
    """Return (weight, sum) of the values above `end`."""
    count = total = 0.0
    for start in range(0, len(values), _CHUNK):
        c = t = np.float32(0.0)
        for j in range(start, min(start + _CHUNK, len(values))):
            above = np.float32(values[j] > end) if w is None else np.float32(values[j] > end) * w[j]
            c += above
            t += above * values[j]
        count += c
        total += t
    return count, total


@numba.njit(nogil=True, cache=True)
def octav(points, first, last, weights, noise, symmetric, out):
    """Write to out[row] the ends (low, high) of OCTAV's fixed point (Sakr et al., ICML 2022, equation 7), to 1e-6 in at most 30 steps.

    `noise` is 4^-bits. The noise model (high - low)^2 noise / 12 inside and the clipped tails give, for each end with the other one kept,
    high = (sum of x > high + low t) / (count of x > high + t) with t = noise / 12 x count inside; low = -high and low = 0 are the paper's
    signed and unsigned forms.
    """
    for row in range(first, last):
        x, w = points[row], None if weights is None else weights[row]
        low = high = 0.0
        magnitudes, mirrored = np.abs(x), -x
        filled = _beyond(magnitudes, w, np.float32(0.0))[0]
        for _ in range(30):
            was_low, was_high = low, high
            if symmetric:
                count, total = _beyond(magnitudes, w, np.float32(high))
                count += noise / 3.0 * (filled - count)
                high = total / count if count > 0.0 else 0.0
                low = -high
            else:
                above, above_sum = _beyond(x, w, np.float32(high))
                below, below_sum = _beyond(mirrored, w, np.float32(-low))
                t = noise / 12.0 * (filled - above - below)
                high = max((above_sum + low * t) / (above + t), 0.0) if above + t > 0.0 else 0.0
                low = min((was_high * t - below_sum) / (below + t), 0.0) if below + t > 0.0 else 0.0
            if abs(high - was_high) + abs(low - was_low) <= 1e-6 * (high - low):
                break
        out[row, 0], out[row, 1] = low, high
