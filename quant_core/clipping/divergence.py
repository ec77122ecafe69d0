"""KL-divergence clipping as TensorRT does it (Migacz, "8-bit inference with TensorRT", GTC 2017), all rows, prefix sums per candidate."""

# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def, assignment, no-untyped-call, untyped-decorator"

import numba
import numpy as np
from numpy.typing import NDArray

from quant_core.clipping.kernels import F32, search_rows

BINS = 2048
MOST_CUT = 9.0


def thresholds(counts: NDArray[np.float64], widths: NDArray[np.float64], levels: int) -> NDArray[np.float64]:
    """Return the threshold of each row of a histogram of magnitudes, [B, bins] and bin widths [B] -> [B].

    For each i from max(levels, bins / 16) to bins, P is the first i bins with the tail added to the last one and Q the same bins merged
    into `levels` and spread evenly over those that are not empty; the i of least KL(P || Q) gives the threshold i x width. As in NVIDIA's
    calibrators, bin 0 counts as much as bin 1 (a spike of zeros does not decide), Q leaves the tail out, and the last of equals wins.
    Unlike there, no candidate may cut more than a tenth: of inputs with few distinct values (8-bit images) one value alone is P = Q.
    """
    best = np.zeros(len(counts))
    counts = counts.copy()
    counts[:, 0] = counts[:, 1]
    search_rows(_search, counts, max(levels, counts.shape[1] // 16), levels, best)
    cut: NDArray[np.float64] = best * widths
    return cut


def histogram(magnitudes: F32) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return counts [B, 2048] of equal bins from 0 to each row's largest magnitude, and the bin widths [B]."""
    top = magnitudes.max(axis=1, initial=0.0).astype(np.float64)
    counts = np.zeros((len(magnitudes), BINS))
    usable = np.where(np.isfinite(top) & (top > 0.0), top, 0.0)
    search_rows(_count, magnitudes, usable, counts)
    return counts, usable / BINS


@numba.njit(nogil=True, cache=True)
def _count(rows, first, last, amax, counts):
    bins = counts.shape[1]
    for row in range(first, last):
        if amax[row] > 0.0:
            per_unit = bins / amax[row]
            for value in rows[row]:
                counts[row, min(int(value * per_unit), bins - 1)] += 1.0


@numba.njit(nogil=True, cache=True)
def _search(counts, first, last, start, levels, best):
    """Write to best[row] the number of bins kept.

    With N the number of kept elements and T the tail, P sums to N + T and Q to N, and sum p log(p / q) needs per candidate only the sums
    over `levels` of counts and of filled bins: sum over levels of c log(c / filled) stands for sum p log q.
    """
    bins = counts.shape[1]
    total, filled, entropy = np.zeros(bins + 1), np.zeros(bins + 1), np.zeros(bins + 1)
    for row in range(first, last):
        for j in range(bins):
            c = counts[row, j]
            total[j + 1] = total[j] + c
            filled[j + 1] = filled[j] + (1.0 if c > 0.0 else 0.0)
            entropy[j + 1] = entropy[j] + (c * np.log(c) if c > 0.0 else 0.0)
        least, best[row] = np.inf, bins
        for i in range(start, bins + 1):
            kept, tail, edge = total[i], total[bins] - total[i], counts[row, i - 1]
            if kept <= MOST_CUT * tail or (edge <= 0.0 and tail > 0.0):
                continue
            cross, at, edge_log = 0.0, 0, 0.0
            for level in range(levels):
                upto = ((level + 1) * i + levels - 1) // levels
                c, f = total[upto] - total[at], filled[upto] - filled[at]
                if c > 0.0:
                    edge_log = np.log(c / f)
                    cross += c * edge_log
                at = upto
            last_p = edge + tail
            self_sum = entropy[i - 1] + (last_p * np.log(last_p) if last_p > 0.0 else 0.0)
            divergence = (self_sum - cross - tail * edge_log) / (kept + tail) - np.log((kept + tail) / kept)
            if divergence <= least:
                least, best[row] = divergence, i
