"""Integer programs over the sensitivities: the best policy, the best at many budgets, or the k best, to be measured."""

from collections.abc import Sequence

from search.problem.problem import Problem, Trial
from search.problem.repair import Repairer
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses
from search.searchers.base.targets import epsilon_limits, under
from search.searchers.solvers.ranking import best, ranked


class IlpSearcher:
    """The optimum of the summed sensitivities under the limits; for several objectives one optimum per budget of an epsilon sweep."""

    def __init__(self, problem: Problem, *, seed: int, trials: int) -> None:
        self._problem = problem
        self._history = ProposalHistory(problem, seed, Repairer(problem, "none"))  # refuses limits that cannot be kept
        self._losses = losses(problem)
        self._left = epsilon_limits(problem, trials)

    def ask(self) -> Trial | None:
        """Return the next optimum that is not known yet, or None after the last budget."""
        while self._left:
            found = best(under(self._problem, self._left.pop(0)), self._losses)
            if found is not None and not self._history.seen(found):
                return self._history.open(found)
        return None

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Remember that a point is known."""
        self._history.note(trial, objectives)


class TopkSearcher:
    """The k best solutions of the same program: the sum of sensitivities proposes, the measurement decides.

    Options:
        budgets: for several objectives, how many budgets of the epsilon sweep share the trials.
    """

    def __init__(self, problem: Problem, *, seed: int, trials: int, budgets: int = 10) -> None:
        self._history = ProposalHistory(problem, seed, Repairer(problem, "none"))
        tables = losses(problem)
        self._left = [ranked(under(problem, limits), tables) for limits in epsilon_limits(problem, min(budgets, trials))]

    def ask(self) -> Trial | None:
        """Return the best point that is not known yet, the budgets taking turns; None when all are."""
        while self._left:
            turn = self._left.pop(0)
            found = next((point for point in turn if not self._history.seen(point)), None)
            if found is not None:
                self._left.append(turn)
                return self._history.open(found)
        return None

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Cut a point off."""
        self._history.note(trial, objectives)
