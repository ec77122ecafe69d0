"""An Optuna study behind ask and tell: it holds the points that are evaluated, not those that its sampler drew."""

from collections.abc import Sequence

import numpy as np
import optuna

from search.problem.problem import Trial, Values
from search.problem.repair import TOLERANCE
from search.searchers.base.history import ProposalHistory

optuna.logging.set_verbosity(optuna.logging.WARNING)


class AskTellStudy:
    """One in-memory study. Proposals are repaired and made new before they are opened; limits are set as constraints.

    A proposal that had to change is failed (samplers ignore failed trials) and the changed one is enqueued and asked in its stead, so
    that constant liar counts the point that is running.
    """

    def __init__(self, history: ProposalHistory, sampler: optuna.samplers.BaseSampler) -> None:
        self._history = history
        problem = history.problem
        self._names = [f"d{d:03d}" for d in range(len(problem.cardinalities))]
        self._ranges: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.IntDistribution(0, k - 1) for name, k in zip(self._names, problem.cardinalities, strict=True)
        }
        self._study = optuna.create_study(directions=["minimize"] * len(problem.objectives), sampler=sampler)
        self._open: dict[int, optuna.Trial] = {}

    def ask(self, wanted: Values | None = None) -> Trial | None:
        """Return the sampler's next point (or `wanted`), repaired and new; None when all points are proposed."""
        drawn = None
        if wanted is None:
            drawn = self._study.ask(self._ranges)
            wanted = tuple(int(drawn.params[name]) for name in self._names)
        values = self._history.fresh(wanted)
        if drawn is not None and values != wanted:
            self._study.tell(drawn, state=optuna.trial.TrialState.FAIL)
            drawn = None
        if values is None:
            return None
        if drawn is None:
            self._study.enqueue_trial(dict(zip(self._names, values, strict=True)))
            drawn = self._study.ask(self._ranges)
        for key, excess in self._excess(values).items():
            drawn.set_constraint(key, excess)
        trial = self._history.open(values)
        self._open[trial.number] = drawn
        return trial

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Close a trial, or add one that was never asked."""
        self._history.note(trial, objectives)
        running = self._open.pop(trial.number, None)
        if running is not None and objectives is None:
            self._study.tell(running, state=optuna.trial.TrialState.FAIL)
        elif running is not None and objectives is not None:
            self._study.tell(running, list(objectives))
        elif objectives is not None:
            params = dict(zip(self._names, trial.values, strict=True))
            done = optuna.trial.create_trial(
                values=list(objectives), params=params, distributions=self._ranges, constraints=self._excess(trial.values)
            )
            self._study.add_trial(done)

    def _excess(self, values: Values) -> dict[str, float]:
        excess = self._history.problem.excess(np.array([values], dtype=np.int64))[0]
        return {metric: float(share) - TOLERANCE for metric, share in zip(self._history.problem.limits, excess, strict=True)}
