"""Warm starts: points from the sensitivities that a model-based searcher proposes first."""

from collections.abc import Iterator

from search.problem.problem import Values
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses
from search.searchers.base.targets import epsilon_limits, with_limits
from search.searchers.solvers.ranking import ranked


def warm_points(history: ProposalHistory, count: int) -> Iterator[Values]:
    """Yield up to `count` new points: for each budget in turn the best, then the second best, ... by the summed sensitivities.

    A point is solved for when it is asked for; a problem without sensitivities has none.
    """
    problem = history.problem
    if count < 1 or problem.sensitivity is None:
        return
    tables = losses(problem)
    left = [ranked(with_limits(problem, limits), tables) for limits in epsilon_limits(problem, count)]
    while left and count:
        points = left.pop(0)
        point = next((candidate for candidate in points if not history.seen(candidate)), None)
        if point is not None:
            left.append(points)
            count -= 1
            yield point
