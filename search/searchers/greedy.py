"""Greedy descent from the most expensive policy: at each step the change with the least loss per cost saved; its path is a front."""

from collections.abc import Sequence

import numpy as np

from search.problem.problem import Problem, Trial, Values
from search.problem.repair import Repairer, padded
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses
from search.searchers.base.targets import epsilon_limits, with_limits


class GreedySearcher:
    """From the choices with the least loss down to each budget by loss per cost, then up where there is slack (as AIMET does)."""

    def __init__(self, problem: Problem, *, seed: int, trials: int) -> None:
        self._problem = problem
        self._history = ProposalHistory(problem, seed, Repairer(problem, "none"))
        self._losses = losses(problem)
        Repairer(problem, "greedy")  # refuses limits that cannot be kept
        self._left = epsilon_limits(problem, trials)

    def ask(self) -> Trial | None:
        """Return the greedy point of the next budget, or None after the last."""
        while self._left:
            point = greedy_point(with_limits(self._problem, self._left.pop(0)), padded(self._losses))
            if point is not None and not self._history.seen(point):
                return self._history.open(point)
        return None

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Remember a point, so that it is not proposed."""
        self._history.note(trial, objectives)


def greedy_point(problem: Problem, table: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Values | None:
    """Return the greedy solution under the limits; None when the descent does not get below them."""
    top = tuple(int(k) for k in table.argmin(axis=1))
    point = Repairer(problem, "greedy_then_refill", table)(top, np.random.default_rng(0))
    return point if problem.feasible(point) else None
