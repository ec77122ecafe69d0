"""Tree-structured Parzen estimator (Bergstra et al. 2011; multi-objective: Ozaki et al. 2022) through Optuna's ask and tell."""

from collections.abc import Sequence

import optuna

from search.problem.problem import Problem, Trial
from search.problem.repair import Repairer
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses_for
from search.searchers.optuna.study import AskTellStudy
from search.searchers.surrogate.warm_start import warm_points


class TpeSearcher:
    """Optuna's TPE: ordinal integers, multivariate, constant liar, limits as constraints, warm start.

    Options:
        repair: how a proposal over a limit is brought back, a name of `search.problem.repair.REPAIRS`.
        startup: random proposals before the model is used; told points (the uniform policies) and warm ones count.
        warm: points taken from the sensitivities and proposed first (0: a cold start), at most a quarter of the trials. By default
            12 budgets of a front, but 4 points under one budget: the best sums differ little from each other, and the more of them
            are among the few good points that the model is fitted to, the closer it stays to them.
    """

    def __init__(
        self, problem: Problem, *, seed: int, trials: int, repair: str = "random", startup: int = 10, warm: int | None = None
    ) -> None:
        sampler = optuna.samplers.TPESampler(n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed)
        history = ProposalHistory(problem, seed, Repairer(problem, repair, losses_for(problem, repair)))
        self._study = AskTellStudy(history, sampler)
        if warm is None:
            warm = 4 if len(problem.objectives) == 1 else 12
        self._warm = warm_points(history, min(warm, trials // 4))

    def ask(self) -> Trial | None:
        """Return the next point, or None when all are proposed."""
        return self._study.ask(next(self._warm, None))

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Report a trial; one that was not asked here is added to the study."""
        self._study.tell(trial, objectives)
