"""The default: first points of the integer program over the sensitivities, then a second-order model, TPE and swaps in turn."""

from collections.abc import Callable, Sequence

import optuna

from search.problem.problem import Problem, Trial
from search.problem.repair import Repairer
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses
from search.searchers.optuna.study import AskTellStudy
from search.searchers.surrogate.model import propose_by_model
from search.searchers.surrogate.warm_start import warm_points
from search.searchers.swap import propose_swap

MOST_FIRST = 12
"""Most proposals that are taken from the sensitivities."""
MOST_DIMENSIONS = 40
"""Most dimensions that TPE is used for: its time grows with them, to a fifth of a second per proposal at 300 layers."""


class AutoSearcher:
    """The k best points of the integer program (over several budgets when there are several objectives), then three sources in turn.

    Sensitivities that are wrong would exclude the optimum, so only the first proposals rely on them; the second-order model fits how well
    they predict the error, TPE and swaps do not use them. Swaps start from the one best point and are left out for a front. TPE is left
    out above `MOST_DIMENSIONS` dimensions.

    Options:
        first: share of the trials spent on the integer program, at most `MOST_FIRST` trials.
    """

    def __init__(self, problem: Problem, *, seed: int, trials: int, first: float = 0.25) -> None:
        self._history = ProposalHistory(problem, seed, Repairer(problem, "random"))
        self._study: AskTellStudy | None = None
        if len(problem.cardinalities) <= MOST_DIMENSIONS:
            sampler = optuna.samplers.TPESampler(n_startup_trials=0, multivariate=True, constant_liar=True, seed=seed)
            self._study = AskTellStudy(self._history, sampler)
        self._warm = warm_points(self._history, min(max(1, int(first * trials)), MOST_FIRST))
        self._losses = losses(problem)
        single = (self._model, self._swap, self._model) if len(problem.objectives) == 1 else (self._model,)
        self._sources: tuple[Callable[[], Trial | None], ...] = single if self._study is None else (*single, self._study.ask)
        self._turn = 0

    def ask(self) -> Trial | None:
        """Return the next point, or None when all are proposed."""
        warm = next(self._warm, None)
        if warm is not None:
            return self._history.open(warm) if self._study is None else self._study.ask(warm)
        self._turn += 1
        fallback = self._swap if self._study is None else self._study.ask
        return self._sources[self._turn % len(self._sources)]() or fallback()

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Report a trial."""
        if self._study is None:
            self._history.note(trial, objectives)
        else:
            self._study.tell(trial, objectives)

    def _model(self) -> Trial | None:
        return propose_by_model(self._history, self._losses)

    def _swap(self) -> Trial | None:
        return propose_swap(self._history)
