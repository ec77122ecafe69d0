"""The default: what the sensitivities suggest first, then a model, swaps and TPE from the best point, which need not believe them."""

from collections.abc import Callable, Sequence

import optuna

from search.problem import Problem, Trial
from search.repair import Repairer
from search.searchers.ledger import Ledger
from search.searchers.losses import losses
from search.searchers.model import modelled
from search.searchers.optuna_study import AskTellStudy
from search.searchers.swap import swapped
from search.searchers.warm import warm_points


class AutoSearcher:
    """The k best points of the integer program (over several budgets when there are several objectives), then four takes in turn.

    A guide that is wrong hides the optimum, so only the first proposals trust the sensitivities; the second-order model learns how far
    they hold, swaps and TPE do not look at them.

    Options:
        first: share of the trials spent on the integer program; at most 10 trials when there is one objective.
    """

    def __init__(self, problem: Problem, *, seed: int, trials: int, first: float = 0.25) -> None:
        self._ledger = Ledger(problem, seed, Repairer(problem, "random_wall"))
        sampler = optuna.samplers.TPESampler(n_startup_trials=0, multivariate=True, constant_liar=True, seed=seed)
        self._study = AskTellStudy(self._ledger, sampler)
        count = max(1, int(first * trials))
        self._warm = warm_points(self._ledger, count if len(problem.objectives) > 1 else min(count, 10))
        self._losses = losses(problem)
        self._turn = 0

    def ask(self) -> Trial | None:
        """Return the next point, or None when all are proposed."""
        warm = next(self._warm, None)
        if warm is not None:
            return self._study.ask(warm)
        takes: tuple[Callable[[], Trial | None], ...] = (self._model, self._swap, self._model, self._study.ask)
        self._turn += 1
        return takes[self._turn % len(takes)]() or self._study.ask()

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Report a trial."""
        self._study.tell(trial, objectives)

    def _model(self) -> Trial | None:
        return modelled(self._ledger, self._losses)

    def _swap(self) -> Trial | None:
        return swapped(self._ledger)
