"""The uniform policies, one after the other: the baseline that plots show."""

from collections.abc import Sequence

from search.problem.problem import Problem, Trial, Values
from search.problem.repair import Repairer
from search.searchers.base.history import ProposalHistory


class UniformSearcher:
    """Proposes every uniform point that keeps the limits, then stops.

    Options:
        points: the uniform points, where not those of the problem.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        seed: int,
        trials: int,  # noqa: ARG002
        points: Sequence[Values] = (),
    ) -> None:
        self._history = ProposalHistory(problem, seed, Repairer(problem, "none"))
        self._left = [point for point in points or uniform_points(problem) if problem.feasible(point)]

    def ask(self) -> Trial | None:
        """Return the next uniform point that was not told yet."""
        while self._left:
            values = self._left.pop(0)
            if not self._history.seen(values):
                return self._history.open(values)
        return None

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Remember a point, so that it is not proposed."""
        self._history.note(trial, objectives)


def uniform_points(problem: Problem) -> list[Values]:
    """Return the problem's baselines, or where it has none the points that take the k-th choice everywhere."""
    if problem.baselines:
        return list(problem.baselines)
    return [tuple(min(k, n - 1) for n in problem.cardinalities) for k in range(max(problem.cardinalities, default=0))]
