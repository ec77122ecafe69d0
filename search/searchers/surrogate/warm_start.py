"""Warm starts: points from the sensitivities that a model-based searcher proposes first."""

from collections.abc import Iterator

from search.problem.problem import Values
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses
from search.searchers.base.targets import epsilon_limits, with_limits
from search.searchers.solvers.ranking import best, ranked

MANY = 40
"""Most dimensions in which several budgets are solved for more than their best point."""


def warm_points(history: ProposalHistory, count: int) -> Iterator[Values]:
    """Yield up to `count` new points: for each budget in turn the best, then the second best, ... by the summed sensitivities.

    A point is solved for when it is asked for; a problem without sensitivities has none. Above `MANY` dimensions the second best of one
    budget of several costs more than it tells: there is one point per budget at most.
    """
    problem = history.problem
    if count < 1 or problem.sensitivity is None:
        return
    tables, budgets = losses(problem), epsilon_limits(problem, count)
    if len(budgets) > 1 and len(problem.cardinalities) > MANY:
        for limits in budgets:
            point = best(with_limits(problem, limits), tables)
            if point is not None and not history.seen(point):
                yield point
        return
    left = [ranked(with_limits(problem, limits), tables) for limits in budgets]
    while left and count:
        points = left.pop(0)
        point = next((candidate for candidate in points if not history.seen(candidate)), None)
        if point is not None:
            left.append(points)
            count -= 1
            yield point
