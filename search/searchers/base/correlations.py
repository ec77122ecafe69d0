"""Correlations of points, summed over dimensions: those of told points are kept, those of points near to told ones take few terms."""

import numpy as np

from search.problem.problem import FloatArray, IntArray

LENGTH = 1.0
"""Correlation length between neighbouring choices, in choices."""
LOOKED = 32
"""Dimensions by which the nearest told point is picked."""
NEAR = 0.1
"""Share of the dimensions in which points may differ from told ones, on average, to be computed from them."""


class Correlations:
    """Sums over dimensions of exp(-|i - j| / LENGTH), and of its square, between points of one problem.

    A told point is compared with the others once. That takes the time of one row per proposal, whatever the number of points.
    """

    def __init__(self) -> None:
        self._at: dict[bytes, int] = {}
        self._points = np.empty((0, 0), dtype=np.int64)
        self._sums = np.empty((2, 0, 0))

    def between(self, points: IntArray) -> FloatArray:
        """Return [2, N, N]: both sums between all of points [N, D], which are remembered."""
        keys = [row.tobytes() for row in points]
        fresh = list(dict.fromkeys(key for key in keys if key not in self._at))
        if fresh:
            self._add(np.stack([np.frombuffer(key, dtype=np.int64) for key in fresh]))
            self._at |= {key: len(self._at) + n for n, key in enumerate(fresh)}
        where = [self._at[key] for key in keys]
        return self._sums[:, where][:, :, where]

    def _add(self, rows: IntArray) -> None:
        before = len(self._points)
        self._points = np.concatenate([self._points.reshape(before, rows.shape[1]), rows])
        sums = np.zeros((2, len(self._points), len(self._points)))
        sums[:, :before, :before] = self._sums
        for n in range(before, len(self._points)):
            away = np.abs(self._points[: n + 1] - self._points[n])
            for part, kernel in enumerate(_kernels(int(away.max()))):
                sums[part, n, : n + 1] = sums[part, : n + 1, n] = kernel[away].sum(axis=1)
        self._sums = sums


def summed(points: IntArray, told: IntArray, sums: FloatArray) -> FloatArray:
    """Return [2, M, N]: both sums between points [M, D] and told points [N, D].

    A point that differs from a told one in few dimensions has that one's sums, but for these dimensions.

    Args:
        points: to be compared.
        told: points whose sums are known.
        sums: [2, N, N], of `told`.
    """
    looked = np.linspace(0, points.shape[1] - 1, LOOKED).astype(np.int64)
    nearest = (points[:, None, looked] != told[:, looked]).sum(axis=2).argmin(axis=1)
    row, column = np.nonzero(points != told[nearest])
    if len(row) > NEAR * points.size:
        return _dense(points, told)
    result = sums[:, nearest]
    if not len(row):
        return result
    theirs = told[:, column].T
    after, before = (np.abs(values[:, None] - theirs) for values in (points[row, column], told[nearest[row], column]))
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    for part, kernel in enumerate(_kernels(int(max(after.max(), before.max())))):
        result[part, row[starts]] += np.add.reduceat(kernel[after] - kernel[before], starts, axis=0)
    return result


def _kernels(most: int) -> tuple[FloatArray, FloatArray]:
    """Return the correlation [most + 1] per distance of two choices, and its square."""
    kernel = np.exp(-np.arange(most + 1) / LENGTH)
    return kernel, kernel**2


def _dense(a: IntArray, b: IntArray) -> FloatArray:
    """Return [2, A, B]: the sums as inner products of one vector per choice."""
    choices = np.arange(max(a.max(), b.max()) + 1)
    products = []
    for length in (LENGTH, LENGTH / 2):
        vectors = np.linalg.cholesky(np.exp(-np.abs(choices[:, None] - choices) / length))
        products.append(vectors[a].reshape(len(a), -1) @ vectors[b].reshape(len(b), -1).T)
    return np.stack(products)
