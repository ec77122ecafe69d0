"""Tree-structured Parzen estimator (Bergstra et al. 2011; multi-objective: Ozaki et al. 2022) through Optuna's ask and tell."""

from collections.abc import Sequence

import optuna

from search.problem import Problem, Trial
from search.repair import Repairer
from search.searchers.ledger import Ledger
from search.searchers.losses import losses_for
from search.searchers.optuna_study import AskTellStudy


class TpeSearcher:
    """Optuna's TPE: ordinal integers, multivariate, constant liar, limits as constraints, warm start.

    Options:
        repair: how a proposal over a limit is brought back, a name of `search.repair.REPAIRS`.
        startup: random proposals before the model is used; told points (the uniform policies) count.
    """

    def __init__(self, problem: Problem, *, seed: int, trials: int, repair: str = "random_wall", startup: int = 10) -> None:  # noqa: ARG002
        sampler = optuna.samplers.TPESampler(n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed)
        ledger = Ledger(problem, seed, Repairer(problem, repair, losses_for(problem, repair)))
        self._study = AskTellStudy(ledger, sampler)

    def ask(self) -> Trial | None:
        """Return the next point, or None when all are proposed."""
        return self._study.ask()

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Report a trial; one that was not asked here is added to the study."""
        self._study.tell(trial, objectives)
