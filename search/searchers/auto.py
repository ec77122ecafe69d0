"""The default: what the sensitivities suggest first, then a model, TPE and swaps from the best points, which need not believe them."""

from collections.abc import Callable, Sequence

import optuna

from search.problem.problem import Problem, Trial
from search.problem.repair import Repairer
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses
from search.searchers.optuna.study import AskTellStudy
from search.searchers.surrogate.model import modelled
from search.searchers.surrogate.warm_start import warm_points
from search.searchers.swap import swapped

MOST_FIRST = 12
"""Most proposals that trust the sensitivities."""


class AutoSearcher:
    """The k best points of the integer program (over several budgets when there are several objectives), then several takes in turn.

    A guide that is wrong hides the optimum, so only the first proposals trust the sensitivities; the second-order model learns how far
    they hold, TPE and swaps do not look at them. Swaps polish the one best point; for a front, which has none, they are left out.

    Options:
        first: share of the trials spent on the integer program, at most `MOST_FIRST` trials.
    """

    def __init__(self, problem: Problem, *, seed: int, trials: int, first: float = 0.25) -> None:
        self._history = ProposalHistory(problem, seed, Repairer(problem, "random"))
        sampler = optuna.samplers.TPESampler(n_startup_trials=0, multivariate=True, constant_liar=True, seed=seed)
        self._study = AskTellStudy(self._history, sampler)
        self._warm = warm_points(self._history, min(max(1, int(first * trials)), MOST_FIRST))
        self._losses = losses(problem)
        one = (self._model, self._swap, self._model, self._study.ask)
        self._takes: tuple[Callable[[], Trial | None], ...] = one if len(problem.objectives) == 1 else (self._model, self._study.ask)
        self._turn = 0

    def ask(self) -> Trial | None:
        """Return the next point, or None when all are proposed."""
        warm = next(self._warm, None)
        if warm is not None:
            return self._study.ask(warm)
        self._turn += 1
        return self._takes[self._turn % len(self._takes)]() or self._study.ask()

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Report a trial."""
        self._study.tell(trial, objectives)

    def _model(self) -> Trial | None:
        return modelled(self._history, self._losses)

    def _swap(self) -> Trial | None:
        return swapped(self._history)
