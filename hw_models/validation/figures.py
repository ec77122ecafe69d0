"""How far predicted figures are off expected ones: relative error and rank correlation."""

import numpy as np

from hw_models.models import FloatArray

_ROUNDING = 1e-12  # left by a conversion from cycles to seconds and back


def relative_percent(expected: FloatArray, predicted: FloatArray) -> FloatArray:
    """Return |predicted - expected| / |expected| in percent, [n]; where 0 is expected anything else counts as 100."""
    scale = np.abs(expected)
    error = np.abs(predicted - expected)
    error = np.where(error <= _ROUNDING * scale, 0.0, error)
    return np.where(scale > 0, 100 * error / np.where(scale > 0, scale, 1.0), np.where(error > 0, 100.0, 0.0))


def rank_correlation(x: FloatArray, y: FloatArray) -> float:
    """Return Spearman's rank correlation of two arrays [n], ties ranked by their mean; NaN where either is constant or n < 3."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(x: FloatArray) -> FloatArray:
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: FloatArray = (last - (counts - 1) / 2)[inverse]
    return ranks
