"""The points of a problem in the order of an additive loss: by sorting, by dynamic programming, or by the integer program."""

from collections.abc import Generator, Iterable, Iterator, Sequence

import numpy as np

from search.problem.problem import FloatArray, Problem, Values
from search.problem.repair import infeasible, linearize_limits, padded
from search.searchers.base.history import SMALL, all_points
from search.searchers.solvers.knapsack import Knapsack, best_first, first, fronts, knapsack
from search.searchers.solvers.milp import joint_losses, solve

CUTS = 100
"""Most recent points that the integer program cuts off; when it returns an older one, there is no answer."""


def best(problem: Problem, losses: Sequence[FloatArray]) -> Values | None:
    """Return the point with the least sum of losses [K_d] that keeps the limits of `problem`; None when there is none."""
    return next(ranked(problem, losses), None)


def ranked(problem: Problem, losses: Sequence[FloatArray]) -> Iterator[Values]:
    """Yield the points that keep the limits of `problem`, the least sum of losses [K_d] first.

    A small space is sorted. A problem with at most one limit is solved by dynamic programming; one with several limits, or with too
    many partial solutions, by the integer program with cuts, which goes on for about `CUTS` points.
    """
    if problem.size <= SMALL:
        yield from _sorted(problem, losses)
        return
    yielded: dict[Values, None] = {}
    done = False
    if len(problem.limits) <= 1:
        done = yield from _by_cost(problem, losses, yielded)
    while not done:
        point = solve(problem, losses, list(yielded)[-CUTS:])
        if point is None or point in yielded:
            return
        yielded[point] = None
        yield point


def _sorted(problem: Problem, losses: Sequence[FloatArray]) -> Iterator[Values]:
    points = all_points(problem)
    points = np.delete(points, infeasible(problem, points), axis=0)
    total = np.zeros(len(points))
    for d, table in enumerate(losses):
        total += table[points[:, d]]
    for n in np.argsort(total, kind="stable"):
        yield tuple(map(int, points[n]))


def _by_cost(problem: Problem, losses: Sequence[FloatArray], yielded: dict[Values, None]) -> Generator[Values, None, bool]:
    """Yield new points and add them to `yielded`; return False when the dynamic program grew too large before the last one."""
    single = _knapsack(problem, losses)
    chosen, excess = first(single)
    slack, most = max(single.first_slack(), 1.2 * excess), single.most_slack()
    yield from _new(problem, [chosen] if chosen else [], yielded)
    while True:
        ahead = fronts(single, slack)
        if ahead is None:
            return False
        yield from _new(problem, best_first(single, ahead, slack), yielded)
        if slack > most:
            return True
        slack = 2 * slack


def _new(problem: Problem, candidates: Iterable[Sequence[int]], yielded: dict[Values, None]) -> Iterator[Values]:
    """Yield the points of `candidates`, one joint choice per site each, that are new and keep the limits; add them to `yielded`."""
    for chosen in candidates:
        point = _point(problem, chosen)
        if point not in yielded and problem.feasible(point):
            yielded[point] = None
            yield point


def _knapsack(problem: Problem, losses: Sequence[FloatArray]) -> Knapsack:
    limits = linearize_limits(problem)
    table = padded(joint_losses(problem, losses))
    if not len(limits.budget):
        return knapsack(table, np.zeros_like(table), 0.0)
    costs = padded([cost.ravel() for cost in limits.tables[0]])
    return knapsack(table, np.where(np.isfinite(costs), costs, 0.0), float(limits.budget[0]))


def _point(problem: Problem, chosen: Sequence[int]) -> Values:
    """Return the point of one joint choice per site."""
    values = [0] * len(problem.cardinalities)
    for site, choice in zip(problem.sites, chosen, strict=True):
        for d, value in zip(site, np.unravel_index(choice, tuple(problem.cardinalities[d] for d in site)), strict=True):
            values[d] = int(value)
    return tuple(values)
