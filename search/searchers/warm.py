"""Warm starts: points from the sensitivities that a model-based searcher is shown first."""

from collections.abc import Iterator

from search.problem import Problem, Values
from search.searchers.losses import losses
from search.searchers.milp import solve
from search.searchers.targets import epsilon_limits, under


def warm_points(problem: Problem, count: int) -> Iterator[Values]:
    """Yield up to `count` points: for each budget in turn the best, then the second best, ... by the summed sensitivities.

    Solved when they are asked for; a problem without sensitivities has none.
    """
    if count < 1 or problem.sensitivity is None:
        return
    tables = losses(problem)
    limits = epsilon_limits(problem, count)
    given: list[Values] = []
    while limits and len(given) < count:
        each = limits.pop(0)
        found = solve(under(problem, each), tables, given)
        if found is not None:
            limits.append(each)
            given.append(found)
            yield found
