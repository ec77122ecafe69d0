"""Local search: one or two dimensions of the incumbent changed at a time, drawn without bias, the better point kept."""

from collections.abc import Sequence

from search.problem.problem import Problem, Trial, Values
from search.problem.repair import Repairer, padded, uses_losses
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses
from search.searchers.base.neighbours import neighbours
from search.searchers.base.targets import random_limits, with_limits
from search.searchers.greedy import greedy_point


class SwapSearcher:
    """Starts at the greedy point; each proposal is a random new two-coordinate neighbour of the best point told.

    With several objectives each proposal is for a budget of its own, drawn at random, and starts from the best point under it.

    Options:
        repair: how a point is brought within the limits when the neighbourhood is used up.
        start: begin at the greedy point of the sensitivities (else: at the best baseline, or a random point).
    """

    def __init__(
        self,
        problem: Problem,
        *,
        seed: int,
        trials: int,  # noqa: ARG002
        repair: str = "random",
        start: bool = True,
    ) -> None:
        table = padded(losses(problem)) if start or uses_losses(repair) else None
        self._history = ProposalHistory(problem, seed, Repairer(problem, repair, table))
        self._start = greedy_point(problem, table) if table is not None and start else None

    def ask(self) -> Trial | None:
        """Return the next point, or None when all are proposed."""
        start, self._start = self._start, None
        if start is not None and not self._history.seen(start):
            return self._history.open(start)
        return propose_swap(self._history)

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Report a trial."""
        self._history.note(trial, objectives)


def propose_swap(history: ProposalHistory) -> Trial | None:
    """Open a random new neighbour of the best point under the limits (or a random budget); a new point further off if there is none."""
    target = with_limits(history.problem, random_limits(history.problem, history.rng))
    best: list[Values] = history.incumbents(target) or history.incumbents(history.problem)
    if best:
        near = neighbours(history, target, best[0], most=300)
        if len(near):
            return history.open(tuple(map(int, near[history.rng.integers(len(near))])))
    point = history.fresh(history.mutated(best[0], 3) if best else history.draw())
    return None if point is None else history.open(point)
