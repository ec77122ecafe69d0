"""The points of a problem in the order of an additive loss: by sorting, by dynamic programming, or by the integer program."""

from collections.abc import Generator, Iterable, Iterator, Sequence

import numpy as np

from search.problem.problem import FloatArray, Problem, Values
from search.problem.repair import infeasible, padded
from search.searchers.base.history import SMALL, all_points
from search.searchers.solvers.core import Core, make_core, point_of, two_sum
from search.searchers.solvers.exact import Solution, solution, solve_exactly
from search.searchers.solvers.knapsack import Knapsack, best_first, first, fronts, knapsack
from search.searchers.solvers.milp import solve, solve_in_pairs

CUTS = 100
"""Most recent points that the integer program cuts off; when it returns an older one, there is no answer."""


def best(problem: Problem, losses: Sequence[FloatArray]) -> Values | None:
    """Return the point with the least sum of losses [K_d] that keeps the limits of `problem`; None when there is none."""
    answer = optimum(problem, losses)
    return None if answer is None else answer.values


def optimum(problem: Problem, losses: Sequence[FloatArray]) -> Solution | None:
    """Return the point with the least sum of losses [K_d] that keeps the limits, with its bound and gap; None when there is none.

    Sorting and the dynamic program look at every point that could be better: their gap is 0.
    """
    exact = _sorted(problem, losses) if problem.size <= SMALL else None
    if exact is None and problem.limits_pairs:
        return solve_in_pairs(problem, losses)
    if exact is None and len(problem.limits) <= 1:
        exact = _by_cost(problem, losses, {})
    if exact is not None:
        try:
            return solution(losses, next(exact), 0.0, proven=True)
        except StopIteration as end:
            if end.value:
                return None
    return solve_exactly(problem, losses)


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
    if len(problem.limits) <= 1 and not problem.limits_pairs:
        done = yield from _by_cost(problem, losses, yielded)
    while not done:
        point = solve(problem, losses, list(yielded)[-CUTS:])
        if point is None or point in yielded:
            return
        yielded[point] = None
        yield point


def _sorted(problem: Problem, losses: Sequence[FloatArray]) -> Generator[Values, None, bool]:
    """Yield every point that keeps the limits; return True."""
    points = all_points(problem)
    points = np.delete(points, infeasible(problem, points), axis=0)
    total, rest = np.zeros(len(points)), np.zeros(len(points))
    for d, table in enumerate(losses):
        total, lost = two_sum(total, table[points[:, d]])
        rest += lost
    total, rest = two_sum(total, rest)
    for n in np.lexsort((rest, total)):
        yield tuple(map(int, points[n]))
    return True


def _by_cost(problem: Problem, losses: Sequence[FloatArray], yielded: dict[Values, None]) -> Generator[Values, None, bool]:
    """Yield new points and add them to `yielded`; return False when the dynamic program grew too large before the last one."""
    core = make_core(problem, losses, dominated=True)
    if core is None:
        return True
    single = _knapsack(core)
    chosen, excess = first(single)
    slack, most = max(single.first_slack(), 1.2 * excess), single.most_slack()
    yield from _new(problem, core, [chosen] if chosen else [], yielded)
    while True:
        ahead = fronts(single, slack)
        if ahead is None:
            return False
        yield from _new(problem, core, best_first(single, ahead, slack), yielded)
        if slack > most:
            return True
        slack = 2 * slack


def _new(problem: Problem, core: Core, candidates: Iterable[Sequence[int]], yielded: dict[Values, None]) -> Iterator[Values]:
    """Yield the points of `candidates`, one choice of the core per site each, that are new and keep the limits; add them to `yielded`."""
    for places in candidates:
        point = point_of(problem, [int(left[place]) for left, place in zip(core.choices, places, strict=True)])
        if point not in yielded and problem.feasible(point):
            yielded[point] = None
            yield point


def _knapsack(core: Core) -> Knapsack:
    table = padded(core.losses)
    if not len(core.budget):
        return knapsack(table, np.zeros_like(table), 0.0)
    costs = padded([cost[0] for cost in core.costs])
    return knapsack(table, np.where(np.isfinite(costs), costs, 0.0), float(core.budget[0]))
