"""The search of a space that holds one point: there is nothing to choose, whatever searcher was asked for."""

from collections.abc import Sequence

from search.problem.problem import Problem, Trial, Values


class SinglePointSearcher:
    """Proposes the only point of a problem, unless it is a baseline or was told already, then stops."""

    def __init__(self, problem: Problem) -> None:
        point: Values = (0,) * len(problem.cardinalities)
        self._left = [] if point in problem.baselines or not problem.feasible(point) else [point]

    def ask(self) -> Trial | None:
        """Return the only point, once."""
        return Trial(0, self._left.pop()) if self._left else None

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:  # noqa: ARG002
        """Remember that the point was evaluated."""
        self._left.clear()
