"""A second-order model of the error, learned from measured points: additive terms and one term per pair of dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from search.problem.problem import FloatArray, IntArray
from search.searchers.base.correlations import LENGTH, Correlations, summed

MANY = 40
"""Above so many dimensions correlations of measured points are kept, and those of other points computed from them."""


@dataclass(frozen=True, eq=False)
class Quadratic:
    """Bayesian linear regression on all additive and all pairwise terms (an additive Gaussian process of order two).

    The prior mean is a + b * (sum of the sensitivities); the correlation of two choices i, j of one dimension is exp(-|i - j| / LENGTH).
    The pairwise terms are CLADO's (arXiv 2307.05657, eq. 5); here they are fitted to all measured points, not measured one by one.

    Attributes:
        points: [N, D] measured.
        prior: per dimension [K_d] the sensitivities.
        mean: (a, b) of the prior mean.
        weights: [N] of the posterior mean.
        factor: Cholesky factor of the kernel matrix.
        scale: variance of the additive and of the pairwise part.
        sums: [2, N, N] of `Correlations` where there are more than `MANY` dimensions, else None.
    """

    points: IntArray
    prior: tuple[FloatArray, ...]
    mean: tuple[float, float]
    weights: FloatArray
    factor: tuple[FloatArray, bool]
    scale: tuple[float, float]
    sums: FloatArray | None

    def predict(self, points: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return mean and standard deviation of the error at points [M, D], each [M]."""
        if self.sums is None:
            additive, pairwise = _parts(points, self.points)
        else:
            additive, pairwise = _shares(summed(points, self.points, self.sums), points.shape[1])
        cross = self.scale[0] * additive + self.scale[1] * pairwise
        mean = self.mean[0] + self.mean[1] * _proxy(self.prior, points) + cross @ self.weights
        variance = sum(self.scale) - np.einsum("mn,nm->m", cross, cho_solve(self.factor, cross.T))
        return mean, np.sqrt(np.maximum(variance, 1e-12))

    def terms(self) -> tuple[tuple[FloatArray, ...], dict[tuple[int, int], FloatArray]]:
        """Return the posterior mean as tables: per dimension [K_d], and per pair (d, e) [K_d, K_e]; exact up to a constant."""
        dimensions = self.points.shape[1]
        near = [_near(self.points[:, d], len(self.prior[d])) for d in range(dimensions)]
        share, pair = self.scale[0] / dimensions, self.scale[1] / max(dimensions * (dimensions - 1) / 2, 1)
        linear = tuple(self.mean[1] * self.prior[d] + share * self.weights @ near[d] for d in range(dimensions))
        pairs = {(d, e): pair * (near[d] * self.weights[:, None]).T @ near[e] for d in range(dimensions) for e in range(d + 1, dimensions)}
        return linear, pairs


def fit(points: IntArray, errors: FloatArray, prior: Sequence[FloatArray], known: Correlations | None = None) -> Quadratic:
    """Fit to points [N, D] and errors [N]; the shares of additive, pairwise and noise are those of the greatest likelihood on a grid.

    Args:
        points, errors: measured.
        prior: per dimension [K_d] the sensitivities.
        known: correlations of points that were fitted to before; used above `MANY` dimensions, and added to.
    """
    proxy = _proxy(prior, points)
    mean = _line(proxy, errors)
    left = errors - mean[0] - mean[1] * proxy
    variance = max(float(left.var()), 1e-12)
    best: tuple[float, FloatArray, tuple[FloatArray, bool], tuple[float, float]] | None = None
    sums = (known or Correlations()).between(points) if points.shape[1] > MANY else None
    additive, pairwise = _parts(points, points) if sums is None else _shares(sums, points.shape[1])
    for share in (0.2, 0.5, 0.8):
        for noise in (1e-3, 1e-2, 1e-1):
            scale = (variance * share * (1 - noise), variance * (1 - share) * (1 - noise))
            kernel = scale[0] * additive + scale[1] * pairwise + variance * noise * np.eye(len(points))
            factor = cho_factor(kernel, lower=True)
            weights = cho_solve(factor, left)
            cost = float(left @ weights) + 2 * float(np.log(np.diag(factor[0])).sum())
            if best is None or cost < best[0]:
                best = (cost, weights, factor, scale)
    assert best is not None
    return Quadratic(points, tuple(prior), mean, *best[1:], sums)


def _line(proxy: FloatArray, errors: FloatArray) -> tuple[float, float]:
    """Return the robust line through (proxy, error): slope from the medians of the halves, never negative."""
    order = np.argsort(proxy)
    low, high = np.array_split(order, 2)
    run = float(np.median(proxy[high]) - np.median(proxy[low])) if len(high) else 0.0
    slope = max(float(np.median(errors[high]) - np.median(errors[low])) / run, 0.0) if run > 0 else 0.0
    return float(np.median(errors - slope * proxy)), slope


def _proxy(prior: Sequence[FloatArray], points: IntArray) -> FloatArray:
    if len(prior) > MANY:
        starts = np.cumsum([0, *map(len, prior[:-1])])
        gathered: FloatArray = np.concatenate(prior)[starts + points].sum(axis=1)
        return gathered
    total: FloatArray = np.sum([np.zeros(len(points)), *(table[points[:, d]] for d, table in enumerate(prior))], axis=0)
    return total


def _near(column: IntArray, choices: int) -> FloatArray:
    """Return [N, K]: the correlation of each point's choice with every choice."""
    correlation: FloatArray = np.exp(-np.abs(column[:, None] - np.arange(choices)) / LENGTH)
    return correlation


def _parts(a: IntArray, b: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return [A, B] twice: mean correlation over dimensions and over pairs; with s, q the sums of k and k^2 the latter is (s^2 - q) / 2."""
    total, squares = np.zeros((len(a), len(b))), np.zeros((len(a), len(b)))
    for d in range(a.shape[1]):
        correlation = np.exp(-np.abs(a[:, d][:, None] - b[:, d]) / LENGTH)
        total += correlation
        squares += correlation**2
    return _shares((total, squares), a.shape[1])


def _shares(sums: Sequence[FloatArray] | FloatArray, dimensions: int) -> tuple[FloatArray, FloatArray]:
    total, squares = sums
    return total / dimensions, (total**2 - squares) / max(dimensions * (dimensions - 1), 1)
