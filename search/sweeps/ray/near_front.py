"""What a scheduler compares where there are several objectives: how far a trial is above the front of its rung."""

from collections import defaultdict
from typing import Any

from ray.tune.schedulers import FIFOScheduler

from search.sweeps.ray.schedulers import RUNG, SCORE


class NearFront(FIFOScheduler):  # type: ignore[misc]
    """Passes everything on to another scheduler, with the score of a trial replaced by its distance to the front.

    The quality alone would stop every cheap policy. The distance is the quality less the best one, at the same rung so far, of the
    trials that cost no more in any objective; on the front it is 0. With one objective the quality stays as it is.

    Args:
        inner: one of Tune's schedulers, minimizing `score`.
        costs: names of the objectives beside the quality.
    """

    def __init__(self, inner: Any, costs: tuple[str, ...]) -> None:
        super().__init__()
        self._inner, self._costs = inner, costs
        self._rungs: dict[int, dict[str, tuple[float, tuple[float, ...]]]] = defaultdict(dict)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Pass on."""
        self._inner.on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Pass on."""
        self._inner.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Pass on, and return what the other scheduler decides."""
        decision: str = self._inner.on_trial_result(tune_controller, trial, self.judged(trial, result))
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Pass on."""
        self._inner.on_trial_complete(tune_controller, trial, self.judged(trial, result))

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Pass on."""
        self._inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Pass on."""
        return self._inner.choose_trial_to_run(tune_controller)

    def judged(self, trial: Any, result: dict[str, Any]) -> dict[str, Any]:
        """Return the result with the distance as its score; one without a score (it failed, or climbs the ladder) as it is."""
        if SCORE not in result or not self._costs:
            return result
        own = tuple(trial.config["cost"][name] for name in self._costs)
        seen = self._rungs[result[RUNG]]
        seen[trial.trial_id] = (result[SCORE], own)
        least = min(score for score, cost in seen.values() if all(a <= b for a, b in zip(cost, own, strict=True)))
        return {**result, SCORE: result[SCORE] - least}
