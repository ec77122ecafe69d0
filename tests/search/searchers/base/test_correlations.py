"""Correlations of points: kept sums, and sums from near points, are those of the definition."""

import numpy as np
import pytest

from search.problem.problem import FloatArray, IntArray
from search.searchers.base import correlations
from search.searchers.base.correlations import LENGTH, Correlations, summed


def defined(a: IntArray, b: IntArray) -> FloatArray:
    near = np.exp(-np.abs(a[:, None] - b) / LENGTH)
    return np.stack([near.sum(axis=2), (near**2).sum(axis=2)])


def test_sums_between_told_points_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    points, kept, rows = np.random.default_rng(0).integers(6, size=(9, 50)), Correlations(), []
    add = Correlations._add
    monkeypatch.setattr(Correlations, "_add", lambda self, fresh: (rows.append(len(fresh)), add(self, fresh)))
    for count in (3, 4, 9, 9):
        np.testing.assert_allclose(kept.between(points[:count]), defined(points[:count], points[:count]), rtol=1e-12)
    np.testing.assert_allclose(kept.between(points[5:1:-2]), defined(points[5:1:-2], points[5:1:-2]), rtol=1e-12)
    assert rows == [3, 1, 5]


@pytest.mark.parametrize("changed", [0, 1, 2, 30])
def test_near_points_are_compared_where_they_differ(changed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(changed)
    told = rng.integers(6, size=(5, 60))
    points = told[rng.integers(5, size=12)]
    for row in points:
        row[rng.choice(60, size=changed, replace=False)] = rng.integers(6, size=changed)
    if changed <= 2:
        monkeypatch.setattr(correlations, "_dense", None)
    np.testing.assert_allclose(summed(points, told, Correlations().between(told)), defined(points, told), rtol=1e-12)
