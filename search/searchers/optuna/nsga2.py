"""NSGA-II (Deb et al. 2002) through Optuna's ask and tell."""

from collections.abc import Sequence

import optuna

from search.problem.problem import Problem, Trial
from search.problem.repair import Repairer
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses_for
from search.searchers.optuna.study import AskTellStudy
from search.searchers.surrogate.warm_start import warm_points


class Nsga2Searcher:
    """Optuna's NSGA-II on ordinal integers, its first population warm.

    Options:
        repair: how a proposal over a limit is brought back, a name of `search.problem.repair.REPAIRS`.
        population: members per generation, 20 to 50; fewer where there are not enough trials for five generations.
        warm: points of the first population taken from the sensitivities (0: a cold start).
    """

    def __init__(self, problem: Problem, *, seed: int, trials: int, repair: str = "random", population: int = 50, warm: int = 4) -> None:
        size = max(4, min(population, max(20, trials // 5)))
        history = ProposalHistory(problem, seed, Repairer(problem, repair, losses_for(problem, repair)))
        self._history, self._random = history, size
        self._study = AskTellStudy(history, optuna.samplers.NSGAIISampler(population_size=size, seed=seed))
        self._warm = warm_points(history, min(warm, trials // 4))

    def ask(self) -> Trial | None:
        """Return the next point, or None when all are proposed."""
        wanted = next(self._warm, None)
        self._random -= 1
        if wanted is None and self._random >= 0:  # the same draws as Optuna's, which copies the trial for every parameter
            wanted = self._history.draw()
        return self._study.ask(wanted)

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Report a trial; one that was not asked here is added to the study."""
        self._study.tell(trial, objectives)
