"""Warm starts: points from the sensitivities that a model-based searcher is shown first."""

from collections.abc import Iterator

from search.problem.problem import Values
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses
from search.searchers.base.targets import epsilon_limits, under
from search.searchers.solvers.ranking import ranked


def warm_points(history: ProposalHistory, count: int) -> Iterator[Values]:
    """Yield up to `count` new points: for each budget in turn the best, then the second best, ... by the summed sensitivities.

    Solved when they are asked for; a problem without sensitivities has none.
    """
    problem = history.problem
    if count < 1 or problem.sensitivity is None:
        return
    tables = losses(problem)
    left = [ranked(under(problem, limits), tables) for limits in epsilon_limits(problem, count)]
    while left and count:
        turn = left.pop(0)
        found = next((point for point in turn if not history.seen(point)), None)
        if found is not None:
            left.append(turn)
            count -= 1
            yield found
