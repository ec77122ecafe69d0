"""Integer programs over the sensitivities: the best policy, the best at many budgets, or the k best, to be measured."""

from collections.abc import Sequence

from search.problem import Problem, Trial
from search.repair import Repairer, walls
from search.searchers.ledger import Ledger
from search.searchers.losses import losses
from search.searchers.milp import solve
from search.searchers.nextbest import next_best
from search.searchers.targets import epsilon_limits, under


class IlpSearcher:
    """The optimum of the summed sensitivities under the limits; for several objectives one optimum per budget of an epsilon sweep."""

    def __init__(self, problem: Problem, *, seed: int, trials: int) -> None:
        walls(problem)  # refuses limits that cannot be kept
        self._problem = problem
        self._ledger = Ledger(problem, seed, Repairer(problem, "none"))
        self._losses = losses(problem)
        self._left = epsilon_limits(problem, trials)

    def ask(self) -> Trial | None:
        """Return the next optimum that is not known yet, or None after the last budget."""
        while self._left:
            found = solve(under(self._problem, self._left.pop(0)), self._losses)
            if found is not None and not self._ledger.seen(found):
                return self._ledger.open(found)
        return None

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Remember that a point is known."""
        self._ledger.note(trial, objectives)


class TopkSearcher:
    """The k best solutions of the same program, by no-good cuts: the sum of sensitivities proposes, the measurement decides.

    Options:
        budgets: for several objectives, how many budgets of the epsilon sweep share the trials.
    """

    def __init__(self, problem: Problem, *, seed: int, trials: int, budgets: int = 10) -> None:
        walls(problem)
        self._problem = problem
        self._ledger = Ledger(problem, seed, Repairer(problem, "none"))
        self._losses = losses(problem)
        self._limits = epsilon_limits(problem, min(budgets, trials))

    def ask(self) -> Trial | None:
        """Return the best point that is not known yet, the budgets taking turns; None when all are."""
        while self._limits:
            limits = self._limits.pop(0)
            found = next_best(self._ledger, under(self._problem, limits), self._losses)
            if found is not None:
                self._limits.append(limits)
                return self._ledger.open(found)
        return None

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Cut a point off."""
        self._ledger.note(trial, objectives)
