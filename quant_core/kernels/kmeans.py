"""One-dimensional k-means, compiled: the optimum by dynamic programming, Lloyd's iteration over sorted points, the nearest centres."""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, operator"

import numba
import numpy as np

from quant_core.kernels.fused import F, N

_ABS = N(0x7FFFFFFF)
_FEW = 16
_TILE = 1024
_LOOKED_UP = 1 << 18
"""Values of a book from which a table of its edges pays."""


@numba.njit(nogil=True, cache=True)
def _prefix_sums(points, sums):
    """Write the distinct values of sorted `points` to sums[3] and prefix sums of count, x, x^2 (x less the mean) to sums[0:3]."""
    centre, distinct = np.mean(points), 0
    for i in range(len(points)):
        if i == 0 or points[i] != points[i - 1]:
            distinct += 1
            sums[:3, distinct] = sums[:3, distinct - 1]
            sums[3, distinct - 1] = points[i]
        x = points[i] - centre
        sums[0, distinct] += 1.0
        sums[1, distinct] += x
        sums[2, distinct] += x * x
    return distinct, centre


@numba.njit(nogil=True, cache=True)
def _cost(sums, first, last):
    """Return the squared distances of points [first, last) to their mean."""
    count, total = sums[0, last] - sums[0, first], sums[1, last] - sums[1, first]
    return sums[2, last] - sums[2, first] - total * total / count


@numba.njit(nogil=True, cache=True)
def _mean(sums, first, last, centre):
    """Return the mean of points [first, last), between the ends of them whatever differences of huge sums leave."""
    mean = centre + (sums[1, last] - sums[1, first]) / (sums[0, last] - sums[0, first])
    return min(max(mean, sums[3, first]), sums[3, last - 1])


@numba.njit(nogil=True, cache=True)
def _layer(sums, before, after, splits, clusters, n, stack):
    """One more cluster: after[j] = min over i of before[i] + cost(i, j), by divide and conquer over the monotone splits."""
    top = 0
    stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = clusters, n, clusters - 1, n - 1
    while top >= 0:
        low, high, from_, to = stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3]
        top -= 1
        if low > high:
            continue
        middle = (low + high) // 2
        best, split = np.inf, from_
        for i in range(from_, min(to, middle - 1) + 1):
            cost = before[i] + _cost(sums, i, middle)
            if cost < best:
                best, split = cost, i
        after[middle], splits[middle] = best, split
        stack[top + 1, 0], stack[top + 1, 1], stack[top + 1, 2], stack[top + 1, 3] = low, middle - 1, from_, split
        stack[top + 2, 0], stack[top + 2, 1], stack[top + 2, 2], stack[top + 2, 3] = middle + 1, high, split, to
        top += 2


@numba.njit(nogil=True, cache=True)
def _best_book(sums, distinct, centre, book, splits, costs, stack):
    """Write to `book` the centres with the least squared error of the first `distinct` points of `sums`."""
    k = len(book)
    if distinct <= k:
        for i in range(k):
            book[i] = sums[3, min(i, distinct - 1)]
        return
    for j in range(1, distinct + 1):
        costs[0, j] = _cost(sums, 0, j)
    for clusters in range(2, k + 1):
        _layer(sums, costs[clusters % 2], costs[1 - clusters % 2], splits[clusters], clusters, distinct, stack)
    last = distinct
    for clusters in range(k, 0, -1):
        first = splits[clusters, last] if clusters > 1 else 0
        book[clusters - 1] = _mean(sums, first, last, centre)
        last = first


@numba.njit(nogil=True, cache=True)
def weighted_book(points, weights, book):
    """Write to `book` the k centres, ascending, with the least weighted squared error of distinct sorted `points` (float64 [n])."""
    n, k = len(points), len(book)
    sums, centre = np.zeros((4, n + 1)), np.sum(points * weights) / np.sum(weights)
    for i in range(n):
        x = points[i] - centre
        sums[0, i + 1] = sums[0, i] + weights[i]
        sums[1, i + 1] = sums[1, i] + weights[i] * x
        sums[2, i + 1] = sums[2, i] + weights[i] * x * x
        sums[3, i] = points[i]
    splits, costs, stack = np.zeros((k + 1, n + 1), dtype=np.int32), np.empty((2, n + 1)), np.empty((128, 4), dtype=np.int64)
    _best_book(sums, n, centre, book, splits, costs, stack)


@numba.njit(nogil=True, cache=True)
def count_bins(row, counts, sums):
    """Add every value to the bin of its sign, exponent and first 11 bits of mantissa (float64 [2^20] each, negative ones above 2^19)."""
    for j in range(len(row)):
        place = N(F(row[j]).view(N) >> N(12)) & N(0xFFFFF)
        counts[place] += 1.0
        sums[place] += row[j]


@numba.njit(nogil=True, cache=True)
def optimal_books(points, books):
    """Write to books[u] the k centres, ascending, with the least squared error of the sorted `points[u]` (float64 [U, n]).

    Fewer than k distinct values: every value is a centre and the last is repeated.
    """
    units, n = points.shape
    k = books.shape[1]
    splits = np.zeros((k + 1, n + 1), dtype=np.int32)
    costs = np.empty((2, n + 1))
    stack = np.empty((128, 4), dtype=np.int64)
    for u in range(units):
        sums = np.zeros((4, n + 1))
        distinct, centre = _prefix_sums(points[u], sums)
        _best_book(sums, distinct, centre, books[u], splits, costs, stack)


@numba.njit(nogil=True, cache=True)
def lloyd(points, centres, iterations):
    """Move the ascending `centres` (float64) to a local optimum of the sorted `points` (float64 [n]); returns the steps taken.

    A point half-way belongs to the lower centre. An empty cluster moves to the end, of the costliest cluster, that is farthest from its
    centre.
    """
    n, k = len(points), len(centres)
    sums = np.zeros((4, n + 1))
    distinct, middle = _prefix_sums(points, sums)
    values, edges = sums[3, :distinct], np.zeros(k + 1, dtype=np.int64)
    edges[k] = distinct
    for step in range(iterations):
        for c in range(1, k):
            edges[c] = np.searchsorted(values, (centres[c - 1] + centres[c]) / 2.0, side="right")
        moved, worst, widest = False, -1.0, 0
        for c in range(k):
            if edges[c + 1] > edges[c]:
                mean = _mean(sums, edges[c], edges[c + 1], middle)
                moved |= mean != centres[c]
                centres[c] = mean
                cost = _cost(sums, edges[c], edges[c + 1])
                if cost > worst and edges[c + 1] - edges[c] > 1:
                    worst, widest = cost, c
        for c in range(k):
            if edges[c + 1] == edges[c] and worst > 0.0:
                left, right = values[edges[widest]], values[edges[widest + 1] - 1]
                centres[c] = left if centres[widest] - left > right - centres[widest] else right
                moved, worst = True, 0.0
        if not moved:
            return step
        centres.sort()
    return iterations


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _select(part, to, edges, book):
    """The nearest of a few centres: one pass over a tile in the cache per edge, which LLVM vectorizes."""
    for j in range(len(part)):
        to[j] = book[0]
    for c in range(len(edges)):
        edge, centre = edges[c], book[c + 1]
        for j in range(len(part)):
            to[j] = centre if part[j] > edge else to[j]


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _halve(part, to, edges, book, places):
    """The nearest of 2^b centres by halving; all values of a tile take each step together, which LLVM vectorizes."""
    half = N((len(edges) + 1) // 2)
    places[:] = N(0)
    while half > 0:
        for j in range(len(part)):
            places[j] += half if part[j] > edges[places[j] + half - 1] else N(0)
        half = N(half // 2)
    for j in range(len(part)):
        to[j] = book[places[j]]


@numba.njit(nogil=True, cache=True)
def _bin(x):
    """Return the place of a float32 among the 2^16 of its sign, exponent and first 7 bits of mantissa, in ascending order."""
    bits = F(x).view(N)
    return ((bits if bits >= 0 else bits ^ _ABS) >> N(16)) + N(1 << 15)


@numba.njit(nogil=True, cache=True)
def _index(edges, first):
    """Write to first[b] how many of the ascending edges lie below bin b."""
    first[:] = 0
    for edge in edges:
        first[_bin(edge + F(0.0)) + 1] += 1
    for b in range(1, len(first)):
        first[b] += first[b - 1]


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _look_up(part, to, edges, book, first):
    """The nearest of many centres: halving among the edges of the value's own bin, of which there are few."""
    for j in range(len(part)):
        b = _bin(part[j])
        low, high = first[b], first[b + 1]
        while low < high:
            middle = (low + high) >> 1
            if part[j] > edges[middle]:
                low = middle + 1
            else:
                high = middle
        to[j] = book[low]


@numba.njit(error_model="numpy", nogil=True, cache=True)
def assign(x, first, last, out, edges, books, per_book):
    """Write to `out` the centre of every value: books[b, c] above edges[b, c - 1] and not above edges[b, c].

    Rows b per_book to (b + 1) per_book have book b.
    """
    worst, columns, places = N(0), x.shape[1], np.empty(_TILE, dtype=N)
    looked_up = books.shape[1] > _FEW and columns * per_book >= _LOOKED_UP
    below = np.empty((1 << 16) + 1 if looked_up else 1, dtype=np.int32)
    for r in range(first, last):
        edge, book = edges[r // per_book], books[r // per_book]
        if looked_up and (r == first or r % per_book == 0):
            _index(edge, below)
        for start in range(0, columns, _TILE):
            part, to = x[r, start : start + _TILE], out[r, start : start + _TILE]
            for j in range(len(part)):
                worst = max(worst, F(part[j]).view(N) & _ABS)
            if len(book) <= _FEW:
                _select(part, to, edge, book)
            elif looked_up:
                _look_up(part, to, edge, book, below)
            else:
                _halve(part, to, edge, book, places)
    return worst
