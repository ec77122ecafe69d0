"""Pareto mathematics against brute force, Monte Carlo and Optuna's hypervolume."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quant_core.util.errors import InputError
from search.problem.pareto import (
    Archive,
    FloatArray,
    attainment,
    best_under,
    coverage,
    hypervolume,
    knee,
    non_dominated,
    relative_hypervolume,
)

GRID = st.integers(0, 6).map(float)


def clouds(dimensions: int) -> st.SearchStrategy[FloatArray]:
    return st.integers(0, 12).flatmap(lambda n: hnp.arrays(np.float64, (n, dimensions), elements=GRID))


ANY_CLOUD = st.integers(1, 4).flatmap(clouds)


def brute_force_front(points: FloatArray) -> list[bool]:
    """The definition, pair by pair."""
    keep = []
    for i, p in enumerate(points):
        beaten = any((q <= p).all() and (q < p).any() for q in points)
        twin = any((points[j] == p).all() for j in range(i))
        keep.append(not beaten and not twin)
    return keep


@given(ANY_CLOUD)
def test_non_dominated_is_the_definition(points: FloatArray) -> None:
    assert non_dominated(points).tolist() == brute_force_front(points)


def test_nan_is_never_on_the_front_and_drives_nobody_off() -> None:
    points = np.array([[np.nan, 0.0], [1.0, 1.0], [0.0, np.nan], [2.0, 0.5]])
    assert non_dominated(points).tolist() == [False, True, False, True]


def cells(points: FloatArray, reference: int) -> float:
    """Integer points: count the unit cells that some point covers."""
    axes = np.stack(np.meshgrid(*[np.arange(reference)] * points.shape[1], indexing="ij"), axis=-1).reshape(-1, points.shape[1])
    return float(sum(any((p <= cell).all() for p in points) for cell in axes))


@given(ANY_CLOUD)
def test_hypervolume_counts_cells(points: FloatArray) -> None:
    assert hypervolume(points, [5.0] * points.shape[1]) == pytest.approx(cells(points, 5), abs=1e-9)


@pytest.mark.parametrize("dimensions", [2, 3, 4])
def test_hypervolume_agrees_with_optuna(dimensions: int) -> None:
    oracle = pytest.importorskip("optuna._hypervolume").compute_hypervolume
    points = np.random.default_rng(dimensions).random((40, dimensions))
    reference = np.full(dimensions, 1.1)
    assert hypervolume(points, [1.1] * dimensions) == pytest.approx(oracle(points, reference), rel=1e-12)


def test_hypervolume_of_known_figures() -> None:
    points = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    assert hypervolume(points, [4.0, 4.0]) == 6.0  # a staircase of 3 + 2 + 1 unit squares
    assert relative_hypervolume(points, [4.0, 4.0]) == 6.0 / 16.0
    assert hypervolume(np.array([[4.0, 0.0]]), [4.0, 4.0]) == 0.0  # on the reference: adds nothing
    assert hypervolume(np.empty((0, 3)), [1.0, 1.0, 1.0]) == 0.0


def test_hypervolume_refuses_a_reference_of_other_length() -> None:
    with pytest.raises(InputError, match=r"reference of 3 given; write \[N, m\] and \[m\]"):
        hypervolume(np.zeros((2, 2)), [1.0, 1.0, 1.0])


def test_knee_is_the_farthest_from_the_line_through_the_extremes() -> None:
    points = np.array([[0.0, 1.0], [0.2, 0.3], [0.5, 0.15], [1.0, 0.0]])
    line = np.array([1.0, 1.0]) / np.sqrt(2)
    assert knee(points) == int(np.argmax((1 - points.sum(axis=1)) * line[0])) == 1
    scaled = points * [1e-9, 4e6] + [3.0, 7.0]  # units do not matter
    assert knee(scaled) == 1
    assert knee(np.array([[3.0, 3.0]])) == 0
    with pytest.raises(InputError, match="empty front has no knee"):
        knee(np.empty((0, 2)))


def test_best_under_a_limit() -> None:
    error, cost = np.array([0.1, 0.2, 0.2, 0.3]), np.array([9.0, 5.0, 4.0, 1.0])
    assert best_under(error, cost, 10.0) == 0
    assert best_under(error, cost, 5.0) == 2  # equal errors: the cheaper
    assert best_under(error, cost, 1.0) == 3
    with pytest.raises(InputError, match=r"limit 0\.5 given, but no policy keeps it: the smallest is 1"):
        best_under(error, cost, 0.5)


@given(clouds(2), hnp.arrays(np.float64, 4, elements=GRID))
def test_attainment_is_the_best_within_the_budget(points: FloatArray, budgets: FloatArray) -> None:
    expected = [min([e for e, c in points if c <= b], default=np.inf) for b in budgets]
    assert attainment(points[:, 0], points[:, 1], budgets).tolist() == expected


def test_coverage_counts_weakly_dominated_points() -> None:
    a, b = np.array([[1.0, 1.0]]), np.array([[1.0, 1.0], [2.0, 1.0], [0.0, 5.0], [3.0, 3.0]])
    assert coverage(a, b) == 0.75
    assert coverage(b, a) == 1.0
    assert coverage(a, np.empty((0, 2))) == 0.0
    assert coverage(np.empty((0, 2)), a) == 0.0


@given(clouds(3), st.randoms(use_true_random=False))
def test_archive_equals_the_whole_set_at_any_order(points: FloatArray, random: object) -> None:
    archive = Archive(reference=(7.0, 7.0, 7.0))
    order = list(range(len(points)))
    random.shuffle(order)  # type: ignore[attr-defined]
    for number in order:
        before = archive.numbers
        assert archive.add(number, points[number].tolist()) == (archive.numbers != before)
    assert list(archive.numbers) == np.flatnonzero(non_dominated(points)).tolist()
    assert archive.hypervolume == pytest.approx(relative_hypervolume(points, [7.0] * 3))
    assert archive.knee == (-1 if len(points) == 0 else archive.numbers[knee(points[non_dominated(points)])])


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_points_that_are_not_finite_change_nothing(value: float) -> None:
    sound = np.array([[0.1, 3.0], [0.2, 2.0], [0.4, 1.0], [0.5, 2.5]])
    odd = np.array([[value, 1.5], [0.15, value], [value, value]])
    points = np.concatenate([odd[:1], sound, odd[1:]])
    assert np.array_equal(np.flatnonzero(non_dominated(points)), 1 + np.flatnonzero(non_dominated(sound)))
    assert hypervolume(points, (1.0, 4.0)) == hypervolume(sound, (1.0, 4.0))
    assert knee(points[:4]) == 1 + knee(sound[:3])
    assert coverage(odd, sound) == 0.0
    assert best_under(points[:, 0], np.arange(len(points)), 9.0) == 1 + best_under(sound[:, 0], np.arange(len(sound)), 9.0)
    with pytest.raises(InputError, match="an empty front has no knee"):
        knee(odd)
