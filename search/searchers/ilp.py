"""Integer programs over the sensitivities: the best policy, the best at many budgets, or the k best, to be measured."""

from collections.abc import Sequence

from search.problem.problem import Problem, Trial
from search.problem.repair import Repairer
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses
from search.searchers.base.targets import epsilon_limits, with_limits
from search.searchers.solvers.ranking import best, ranked


class IlpSearcher:
    """The optimum of the summed sensitivities under the limits; for several objectives one optimum per budget of an epsilon sweep."""

    def __init__(self, problem: Problem, *, seed: int, trials: int) -> None:
        self._problem = problem
        self._history = ProposalHistory(problem, seed, Repairer(problem, "none"))  # refuses limits that cannot be kept
        self._losses = losses(problem)
        self._left = epsilon_limits(problem, trials)

    def ask(self) -> Trial | None:
        """Return the next optimum that is new, or None after the last budget."""
        while self._left:
            point = best(with_limits(self._problem, self._left.pop(0)), self._losses)
            if point is not None and not self._history.seen(point):
                return self._history.open(point)
        return None

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Remember a point, so that it is not proposed."""
        self._history.note(trial, objectives)


class TopkSearcher:
    """The k best solutions of the same program: they are proposed in the order of their summed sensitivities.

    Options:
        budgets: for several objectives, how many budgets of the epsilon sweep share the trials.
    """

    def __init__(self, problem: Problem, *, seed: int, trials: int, budgets: int = 10) -> None:
        self._history = ProposalHistory(problem, seed, Repairer(problem, "none"))
        tables = losses(problem)
        self._left = [ranked(with_limits(problem, limits), tables) for limits in epsilon_limits(problem, min(budgets, trials))]

    def ask(self) -> Trial | None:
        """Return the best new point, of one budget after the other; None when there is none left."""
        while self._left:
            points = self._left.pop(0)
            point = next((candidate for candidate in points if not self._history.seen(candidate)), None)
            if point is not None:
                self._left.append(points)
                return self._history.open(point)
        return None

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Remember a point, so that it is not proposed."""
        self._history.note(trial, objectives)
