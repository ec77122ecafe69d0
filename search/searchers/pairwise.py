"""Second-order terms measured by forward passes and solved as a linearised integer program (after CLADO, arXiv 2307.05657)."""

from collections.abc import Sequence

import numpy as np

from search.problem.problem import Problem, Trial, Values
from search.problem.repair import Repairer, linearize_limits
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses
from search.searchers.base.targets import random_limits, with_limits
from search.searchers.solvers.milp import Pairs
from search.searchers.solvers.next_best import next_best
from search.searchers.surrogate.model import fit_to_history
from search.searchers.swap import propose_swap


class PairwiseSearcher:
    """Half of the proposals change two dimensions of the best point (they measure pairs), half solve the program with the pairs so far.

    CLADO measures every pair once around the float network; here pairs are measured around the incumbent and within the
    limits, and the terms are fitted to all measurements.

    Options:
        terms: most product variables in the integer program; the pairs whose terms differ most are taken.
    """

    def __init__(self, problem: Problem, *, seed: int, trials: int, terms: int = 400) -> None:  # noqa: ARG002
        linearize_limits(problem)
        self._problem = problem
        self._losses = losses(problem)
        self._history = ProposalHistory(problem, seed, Repairer(problem, "random"))
        self._terms = terms
        self._turn = 0

    def ask(self) -> Trial | None:
        """Return the next point, or None when all are proposed."""
        self._turn += 1
        point = self._solved() if self._turn % 2 else None
        return propose_swap(self._history) if point is None else self._history.open(point)

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Report a trial."""
        self._history.note(trial, objectives)

    def _solved(self) -> Values | None:
        """Return the best new point under the limits by the model; before there is one, by the sensitivities."""
        target = with_limits(self._problem, random_limits(self._problem, self._history.rng))
        model = fit_to_history(self._history, self._losses)
        linear, pairs = model.terms() if model else (self._losses, {})
        return next_best(self._history, target, linear, widest(pairs, self._terms))


def widest(pairs: Pairs, terms: int) -> Pairs:
    """Return the pairs with the greatest range of terms whose tables hold at most `terms` entries together."""
    kept, used = {}, 0
    for key in sorted(pairs, key=lambda pair: -float(np.ptp(pairs[pair]))):
        used += pairs[key].size
        if used > terms:
            break
        kept[key] = pairs[key]
    return kept
