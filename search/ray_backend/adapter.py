"""Between a `Sweep` and Ray Tune: Tune's searcher asks and tells the sweep, which stays in the driver and is never pickled."""

from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from search.backend import Work
from search.result import Result
from search.sweep import Job, Sweep

METRIC = "metric/"


class SweepSearcher(Searcher):  # type: ignore[misc]
    """suggest -> `sweep.next()`, on_trial_complete -> `sweep.finish()`."""

    def __init__(self, sweep: Sweep, work: Work, reasons: "Reasons") -> None:
        super().__init__()
        self._sweep, self._work, self._reasons = sweep, work, reasons
        self._jobs: dict[str, Job] = {}

    def suggest(self, trial_id: str) -> Any:
        """Return the next policy as plain data, None while there is none, FINISHED when there will be none or a stop was asked for."""
        if self._work.stopping():
            return Searcher.FINISHED
        job = self._sweep.next()
        if job is None:
            return None if self._jobs else Searcher.FINISHED
        self._jobs[trial_id] = job
        return {"number": job.number, "policy": job.policy.to_json(), "cost": dict(job.cost)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Hand a result, or a failure after the last retry, to the sweep."""
        job = self._jobs.pop(trial_id, None)
        if job is None:
            return
        metrics = {key.removeprefix(METRIC): value for key, value in (result or {}).items() if key.startswith(METRIC)}
        if error or not result or not metrics:
            self._sweep.finish(job.number, Result(job.policy.id, status="failed", reason=self._reasons.pop(trial_id)))
        else:
            self._sweep.finish(job.number, Result(job.policy.id, metrics, job.cost, result["seconds"]))
        self._work.ended()

    def save(self, checkpoint_path: str) -> None:
        """The sweep's own record is what a resume starts from."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher; the sweep with its threads and files stays behind."""
        return {}


class Reasons(Callback):  # type: ignore[misc]
    """Remembers why a trial failed, and counts retries."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}
        self.retries = 0

    def pop(self, trial_id: str) -> str:
        """Return why a trial failed."""
        return self._reasons.pop(trial_id, "the worker died or hung, and so did every retry")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Count a retry."""
        self.retries += 1

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Keep the last line of the trial's error."""
        lines = [line.strip() for line in str(trial.get_error() or "").splitlines() if line.strip()]
        if lines:
            self._reasons[trial.trial_id] = lines[-1][:500]
