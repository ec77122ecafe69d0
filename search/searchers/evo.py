"""Evolution by level switches that keep the cost, warm from the sensitivities, its offspring screened by a second-order model."""

from collections.abc import Sequence

import numpy as np

from quant_core.util.errors import InputError
from search.problem.problem import IntArray, Problem, Trial
from search.problem.repair import Repairer
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses
from search.searchers.base.offspring import offspring
from search.searchers.base.targets import cost_objectives, random_limits, with_limits
from search.searchers.surrogate.model import fit_to_history, open_best
from search.searchers.surrogate.warm_start import warm_points

LITTERS = 6
"""Budgets that the offspring of one proposal are bred for, where costs are objectives."""

MOST_ENTRIES = 20_000
LEAST_SCREENED = 50
"""Offspring times dimensions of a large space, and the least number of offspring there: a proposal takes a few milliseconds."""


class EvoSearcher:
    """A steady-state evolution: each proposal is the best of `screen` offspring of the best points that keep the limits.

    With several objectives the offspring are bred for several budgets drawn at random, each from the best points under it, and the model
    takes the one whose mean error would raise the hypervolume most: crossover and switches explore enough. Under one budget it takes the
    least lower confidence bound, mean - u * deviation with u drawn from Exp(1).

    Options:
        population: points that may be parents.
        warm: points taken from the sensitivities first (0: a cold start).
        screen: offspring that the model picks from, fewer above 50 dimensions (1: no model, a random one).
    """

    def __init__(self, problem: Problem, *, seed: int, trials: int, population: int = 8, warm: int = 4, screen: int = 400) -> None:
        for name, value, least in (("population", population, 1), ("warm", warm, 0), ("screen", screen, 1)):
            if value < least:
                raise InputError(f"searcher 'evo': {name} = {value} given; at least {least} is needed.")
        self._history = ProposalHistory(problem, seed, Repairer(problem, "random"))
        self._warm = warm_points(self._history, min(warm, trials // 4))
        self._losses = losses(problem)
        self._population = population
        self._screen = screen if screen == 1 else min(screen, max(LEAST_SCREENED, MOST_ENTRIES // len(problem.cardinalities)))

    def ask(self) -> Trial | None:
        """Return the next point, or None when all are proposed."""
        warm = next(self._warm, None)
        if warm is not None:
            return self._history.open(warm)
        children = self._offspring()
        if not len(children):
            point = self._history.fresh(self._history.draw())
            return None if point is None else self._history.open(point)
        model = fit_to_history(self._history, self._losses) if self._screen > 1 else None
        if model is None:
            return self._history.open(tuple(map(int, children[self._history.rng.integers(len(children))])))
        optimism = 0.0 if cost_objectives(self._history.problem) else self._history.rng.exponential()
        return open_best(self._history, model, children, optimism)

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Report a trial."""
        self._history.note(trial, objectives)

    def _offspring(self) -> IntArray:
        """Return new points [N, D] under the limits, N <= `screen` (rounded up to whole litters)."""
        history, litters = self._history, []
        budgets = min(LITTERS, self._screen) if cost_objectives(history.problem) else 1
        for _ in range(budgets):
            target = with_limits(history.problem, random_limits(history.problem, history.rng))
            parents = history.incumbents(target, self._population) or history.incumbents(history.problem, self._population)
            litters.append(offspring(history, target, parents, -(-self._screen // budgets)))
        return np.concatenate(litters)
