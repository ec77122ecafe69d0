import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from hw_models.validation.figures import rank_correlation, relative_percent


def test_relative_error_and_exactness() -> None:
    expected, predicted = np.array([100.0, 0.0, 0.0, 7.0]), np.array([90.0, 0.0, 1.0, 7.0 * (1 + 1e-15)])
    assert relative_percent(expected, predicted).tolist() == [10.0, 0.0, 100.0, 0.0]


def test_rank_correlation_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    for size in (5, 40):
        x, y = rng.integers(0, 6, size).astype(float), rng.normal(size=size)
        assert rank_correlation(x, y) == pytest.approx(float(spearmanr(x, y).statistic), abs=1e-12)
    assert math.isnan(rank_correlation(np.array([1.0, 2.0]), np.array([1.0, 2.0])))
    assert math.isnan(rank_correlation(np.ones(5), np.arange(5.0)))
