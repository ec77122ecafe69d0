"""Warm starts: points from the sensitivities that a model-based searcher is shown first."""

from collections.abc import Iterator

from search.problem import Values
from search.searchers.ledger import Ledger
from search.searchers.losses import losses
from search.searchers.nextbest import next_best
from search.searchers.targets import epsilon_limits, under


def warm_points(ledger: Ledger, count: int) -> Iterator[Values]:
    """Yield up to `count` new points: for each budget in turn the best, then the second best, ... by the summed sensitivities.

    Solved when they are asked for; a problem without sensitivities has none.
    """
    problem = ledger.problem
    if count < 1 or problem.sensitivity is None:
        return
    tables = losses(problem)
    limits = epsilon_limits(problem, count)
    while limits and count:
        each = limits.pop(0)
        found = next_best(ledger, under(problem, each), tables)
        if found is not None:
            limits.append(each)
            count -= 1
            yield found
