"""Offspring of good points: uniform crossover per site, then level switches that keep the cost near the limits."""

from collections.abc import Sequence

import numpy as np

from search.problem.problem import FloatArray, IntArray, Problem, Values
from search.problem.repair import infeasible
from search.searchers.base.history import ProposalHistory
from search.searchers.base.neighbours import distinct

CROSSED = 0.5
"""Share of the offspring that have two parents."""
MOST_SWITCHES = 4
"""Most levels that one offspring raises."""
FILLS = 3
"""Attempts to use the budget that a lowered level has left."""


def offspring(history: ProposalHistory, target: Problem, parents: Sequence[Values], count: int) -> IntArray:
    """Return up to `count` new points [N, D] under the limits of `target`, made from `parents` (the best first).

    A parent of rank r is drawn with a weight of 1 / (r + 1). A child raises a few dimensions by a level, lowers others until the limits
    hold, and raises again where something fits: EvoPress's level switch (Sieberling et al. 2024, arXiv 2410.14649, sec. 3.2), for choices
    of unequal costs and for several limits.
    """
    if not parents or count < 1:
        return np.empty((0, len(target.cardinalities)), dtype=np.int64)
    rng = history.rng
    pool = np.array(parents, dtype=np.int64)
    weight = 1.0 / np.arange(1, len(pool) + 1)
    first, second = (pool[rng.choice(len(pool), size=count, p=weight / weight.sum())] for _ in range(2))
    children = _crossed(rng, target, first, second)
    switches = np.minimum(rng.geometric(0.5, size=count), MOST_SWITCHES)
    for step in range(MOST_SWITCHES):
        _shift(rng, target, children, np.flatnonzero(switches > step), up=True)
    children = _lowered(rng, target, children)
    for _ in range(FILLS):
        children = _filled(rng, target, children)
    return history.unseen_rows(distinct(children)) if len(children) else children


def _crossed(rng: np.random.Generator, target: Problem, first: IntArray, second: IntArray) -> IntArray:
    """Return `first` [N, D], in `CROSSED` of the rows with half of its sites taken from `second`."""
    site = np.zeros(first.shape[1], dtype=np.int64)
    for number, dimensions in enumerate(target.sites):
        site[list(dimensions)] = number
    taken = rng.random((len(first), len(target.sites))) < 0.5
    taken &= (rng.random(len(first)) < CROSSED)[:, None]
    children: IntArray = np.where(taken[:, site], second, first)
    return children


def _shift(rng: np.random.Generator, target: Problem, points: IntArray, rows: IntArray, *, up: bool) -> None:
    """Move one dimension of each of `rows` of points [N, D] a level up or down, in place, drawn among those that can."""
    if not len(rows):
        return
    free = points[rows] < np.array(target.cardinalities) - 1 if up else points[rows] > 0
    keys: FloatArray = np.where(free, rng.random(free.shape), -1.0)
    picked = keys.argmax(axis=1)
    movable = keys[np.arange(len(rows)), picked] >= 0
    points[rows[movable], picked[movable]] += 1 if up else -1


def _lowered(rng: np.random.Generator, target: Problem, points: IntArray) -> IntArray:
    """Return points [N, D] with levels lowered at random until they keep the limits; those that cannot are left out."""
    over = infeasible(target, points)
    for _ in range(int(sum(target.cardinalities))):
        if not len(over):
            break
        _shift(rng, target, points, over, up=False)
        over = over[infeasible(target, points[over])]
    return np.delete(points, over, axis=0)


def _filled(rng: np.random.Generator, target: Problem, points: IntArray) -> IntArray:
    """Return points [N, D], each with one random level more where the limits still hold then; without limits as they are."""
    if not target.limits:
        return points
    raised = points.copy()
    _shift(rng, target, raised, np.arange(len(points)), up=True)
    over = infeasible(target, raised)
    raised[over] = points[over]
    return raised
