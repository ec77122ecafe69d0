"""New points near a good one: one or two dimensions changed, within the limits."""

import numpy as np

from search.problem.problem import IntArray, Problem, Values
from search.problem.repair import infeasible
from search.searchers.base.history import ProposalHistory

MANY = 4000
"""Neighbourhoods up to this size are enumerated, larger ones sampled."""


def neighbours(history: ProposalHistory, target: Problem, point: Values, most: int = MANY) -> IntArray:
    """Return new points [N, D] that keep the limits of `target` and differ from `point` in one or two dimensions.

    Points that only go down in choice are left out as long as there are others: cheaper choices rarely reduce the error.
    """
    drawn = _all_pairs(target, point) if _size(target) <= most else _some_pairs(history.rng, target, point, most)
    kept = np.ones(len(drawn), dtype=np.bool_)
    kept[infeasible(target, drawn)] = False
    drawn = history.unseen_rows(drawn[kept])
    rises = (drawn > np.array(point)).any(axis=1)
    return drawn[rises] if rises.any() else drawn


def _size(problem: Problem) -> int:
    rest = [k - 1 for k in problem.cardinalities]
    return sum(rest) + (sum(rest) ** 2 - sum(count**2 for count in rest)) // 2


def _all_pairs(problem: Problem, point: Values) -> IntArray:
    """Return all points that differ in one or two dimensions."""
    points = []
    cards = problem.cardinalities
    for d, k in enumerate(cards):
        singles = [(*point[:d], value, *point[d + 1 :]) for value in range(k) if value != point[d]]
        points += singles
        for e in range(d + 1, len(cards)):
            points += [(*single[:e], value, *single[e + 1 :]) for single in singles for value in range(cards[e]) if value != point[e]]
    return np.array(points, dtype=np.int64).reshape(-1, len(cards))


def _some_pairs(rng: np.random.Generator, problem: Problem, point: Values, count: int) -> IntArray:
    """Return `count` points that differ in at most two dimensions, drawn uniformly with repetition."""
    cards = np.array(problem.cardinalities)
    drawn = np.tile(np.array(point, dtype=np.int64), (count, 1))
    for _ in range(2):
        d = rng.integers(len(cards), size=count)
        drawn[np.arange(count), d] = rng.integers(cards[d])
    return drawn


def distinct(points: IntArray) -> IntArray:
    """Return the different ones of points [N, D] in the order of `numpy.unique`, by their bytes: it compares element by element."""
    keys = points.astype(">i8").view(f"V{8 * points.shape[1]}").ravel()
    return points[np.unique(keys, return_index=True)[1]]
