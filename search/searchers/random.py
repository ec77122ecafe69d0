"""Random search without repetition: the baseline that every other searcher is compared with."""

from collections.abc import Sequence

from search.problem.problem import Problem, Trial
from search.problem.repair import Repairer
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses_for


class RandomSearcher:
    """Draws points uniformly, brings them within the limits, and never proposes one twice.

    Options:
        repair: how a point over a limit is brought back, a name of `search.problem.repair.REPAIRS`.
    """

    def __init__(self, problem: Problem, *, seed: int, trials: int, repair: str = "random") -> None:  # noqa: ARG002
        self._history = ProposalHistory(problem, seed, Repairer(problem, repair, losses_for(problem, repair)))

    def ask(self) -> Trial | None:
        """Return a new point, or None when all are proposed."""
        values = self._history.fresh(self._history.draw())
        return None if values is None else self._history.open(values)

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Remember a point, so that it is not proposed."""
        self._history.note(trial, objectives)
