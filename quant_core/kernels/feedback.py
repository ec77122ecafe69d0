"""Rounding one column after the other, each for the error that the others have left: compiled loops over the rows of a block of columns."""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, operator"

import numba
import numpy as np

F = np.float32


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _nearest(value, low, step, top, book):
    """Return (place, value) of the grid value nearest to `value`; a value half-way takes the even place, with a book the lower one.

    The grid is low + step k, 0 <= k <= top; with a `book` (ascending) low + step book[k]. A step of 0 has one value, low.
    """
    if step == F(0):
        return F(0), low
    steps = (value - low) / step
    if len(book) == 0:
        place = min(max(np.rint(steps), F(0)), F(top))
        return place, low + step * place
    first, last = 0, len(book) - 1
    while first < last:
        middle = (first + last) // 2
        if steps > (book[middle] + book[middle + 1]) * F(0.5):
            first = middle + 1
        else:
            last = middle
    return F(first), low + step * book[first]


@numba.njit(error_model="numpy", nogil=True, cache=True)
def round_block(weight, first, last, shift, factor, per_factor, low, step, top, books, per_book, places, errors):
    """Round the columns of a block, the last first, each to the grid value nearest to its target; write places and errors q - w.

    The target of column i is w_i - s_i / L_ii with s_i = shift_i + sum over j > i of (q_j - w_j) L_ji: the error d L of
    ||d L||^2 = d H d in coordinate i, which later columns do not touch, is then the least that column i can make it.

    Args:
        weight: [R, B] float32; rows are independent. first, last: the rows to do.
        shift: [R, B] float32, the sums over the columns of later blocks; overwritten.
        factor: [G, B, B] float32, lower triangular with positive diagonal; rows g per_factor to (g + 1) per_factor have factor g.
        low, step, top, books, per_book: the grids, [R, B] and [N, L]; rows n per_book to (n + 1) per_book have book n.
        places, errors: [R, B] float32, written.
    """
    columns = weight.shape[1]
    for row in range(first, last):
        lower, book, sums = factor[row // per_factor], books[row // per_book], shift[row]
        for i in range(columns - 1, -1, -1):
            target = weight[row, i] - sums[i] / lower[i, i]
            place, value = _nearest(target, low[row, i], step[row, i], top, book)
            error = value - weight[row, i]
            places[row, i], errors[row, i] = place, error
            for j in range(i):
                sums[j] += error * lower[i, j]


@numba.njit(error_model="numpy", nogil=True, cache=True)
def descend_block(weight, first, last, slope, moments, per_moments, low, step, top, books, per_book, places, errors):
    """Move every column of a block in turn to the grid value that makes d H d least, the others kept; update places and errors.

    That value is the nearest to q_i - slope_i / H_ii with slope = d H. Arguments as for `round_block`; `slope` [R, B] is overwritten,
    `moments` [G, B, B] are the block's part of H.
    """
    columns = weight.shape[1]
    for row in range(first, last):
        square, book, slopes = moments[row // per_moments], books[row // per_book], slope[row]
        for i in range(columns):
            curvature = square[i, i]
            if not curvature > F(0):
                continue
            before = errors[row, i]
            place, value = _nearest(weight[row, i] + before - slopes[i] / curvature, low[row, i], step[row, i], top, book)
            change = value - weight[row, i] - before
            if place != places[row, i] and change * (F(2) * slopes[i] + change * curvature) < F(-1e-6) * change * change * curvature:
                places[row, i], errors[row, i] = place, before + change
                for j in range(columns):
                    slopes[j] += change * square[i, j]
