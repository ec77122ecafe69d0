"""Warm starts: points from the sensitivities that a model-based searcher proposes first."""

from collections.abc import Iterator
from itertools import islice

from search.problem.problem import Values
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses
from search.searchers.base.targets import epsilon_limits, with_limits
from search.searchers.solvers.ranking import ranked
from search.searchers.solvers.relaxed import Relaxed

MANY = 40
"""Most dimensions in which fronts are solved exactly, and for more than the best point of a budget."""
MANY_SITES = 150
"""Most sites in which a single budget is solved exactly: beyond, the proof costs more than it tells."""


def warm_points(history: ProposalHistory, count: int) -> Iterator[Values]:
    """Yield up to `count` new points: for each budget in turn the best, then the second best, ... by the summed sensitivities.

    A point is solved for when it is asked for; a problem without sensitivities has none. In a large space points are near the best ones
    instead (`search/searchers/solvers/relaxed.py`), and a front has one per budget at most.
    """
    problem = history.problem
    if count < 1 or problem.sensitivity is None:
        return
    tables, budgets = losses(problem), epsilon_limits(problem, count)
    if len(problem.sites) > MANY_SITES or (len(budgets) > 1 and len(problem.cardinalities) > MANY):
        relaxed = Relaxed(problem, tables)
        for limits in budgets:
            near = (point for point in relaxed.near(limits) if not history.seen(point))
            yield from islice(near, 1 if len(budgets) > 1 else count)
        return
    left = [ranked(with_limits(problem, limits), tables) for limits in budgets]
    while left and count:
        points = left.pop(0)
        point = next((candidate for candidate in points if not history.seen(candidate)), None)
        if point is not None:
            left.append(points)
            count -= 1
            yield point
