"""Between a `Sweep` and Ray Tune: Tune's searcher asks and tells the sweep, which stays in the driver and is never pickled."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from search.records.result import Result
from search.sweeps.backend import BackendContext
from search.sweeps.ray.shipping import ABSENT, WorkerError, advice
from search.sweeps.ray.trainable import TrialError
from search.sweeps.ray.worker_report import WorkerReport
from search.sweeps.sweep import Evaluation, Sweep


@dataclass
class _Attempt:
    """One try of Tune at an evaluation; `failed_on` is the living process in which it failed before."""

    evaluation: Evaluation
    tries: int = 0
    failed_on: str = ""
    started: float = 0.0
    begun: bool = False


class SweepSearcher(Searcher):  # type: ignore[misc]
    """suggest -> `sweep.next()`, on_trial_complete -> `sweep.finish()`. Every attempt at an evaluation is a Tune trial of its own."""

    def __init__(self, sweep: Sweep, context: BackendContext) -> None:
        super().__init__()
        self._sweep, self._context, self._section = sweep, context, context.experiment.run
        self._running: dict[str, _Attempt] = {}
        self._again: deque[_Attempt] = deque()
        self._freed = ""
        self.fault = ""
        """Why no worker can evaluate any policy; "" as long as they can."""

    def suggest(self, trial_id: str) -> Any:
        """Return the next policy as plain data, None while there is none, FINISHED when there will be none or a stop was asked for."""
        if self.fault or self._context.stopping():
            return Searcher.FINISHED
        attempt = self._next()
        if attempt is None:
            return None if self._running else Searcher.FINISHED
        attempt.started = time.monotonic()
        self._running[trial_id] = attempt
        evaluation = attempt.evaluation
        return {
            "number": evaluation.number,
            "policy": evaluation.policy.to_json(),
            "cost": self._sweep.problem.costs_of(evaluation.trial.values),
            "fidelity": evaluation.fidelity,
            "schedulable": evaluation.schedulable,
            "after": [policy.to_json() for policy in evaluation.after_policies],
        }

    def _next(self) -> _Attempt | None:
        """Return an evaluation to try again, if another process than the one it failed in is free; otherwise a new one."""
        if self._again and self._again[0].failed_on != self._freed:
            return self._again.popleft()
        evaluation = self._sweep.next()
        if evaluation is not None:
            return _Attempt(evaluation)
        return self._again.popleft() if self._again else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take the result of a trial. Of one that died, Tune tells the error later: see `died`."""
        if error or not result or trial_id not in self._running:
            return
        attempt = self._running.pop(trial_id)
        report = WorkerReport.loads(result["report"])
        self._freed = report.worker
        self._context.weights.add(report.weights)
        self._context.ranges.add(report.ranges)
        kind, _, text = report.result.reason.partition(": ")
        if report.result.failed and kind in ABSENT:
            self._stop(advice(kind, text, report.worker.rpartition(":")[0]))
        else:
            self._end(attempt, report.result, report.worker)

    def start(self, trial_id: str) -> None:
        """Note that a worker has begun."""
        if trial_id in self._running:
            attempt = self._running[trial_id]
            attempt.started, attempt.begun = time.monotonic(), True
            self._count()
            self._context.changed()

    def died(self, trial_id: str, error: str) -> None:
        """Take the death of a trial's worker, or a trial that Tune gave up."""
        attempt = self._running.pop(trial_id, None)
        if attempt is None:
            return
        fault = _said(error, WorkerError)
        if fault or "failed to import on the worker" in error:
            self._stop(fault or advice("ImportError", "bitfront, as the driver has it", "a node of the cluster"))
            return
        seconds, limit = time.monotonic() - attempt.started, self._section.trial_timeout_s
        told = _said(error, TrialError)
        reason = told or _cause(error)
        if limit and seconds >= limit and not told:
            reason = f"no result within trial_timeout_s = {limit:g} s"
        evaluation = attempt.evaluation
        self._end(attempt, Result(evaluation.policy.id, {}, {}, seconds, "failed", reason, fidelity=evaluation.fidelity), "")

    def _end(self, attempt: _Attempt, result: Result, worker: str) -> None:
        """Tell the sweep, or queue another attempt."""
        if result.failed and attempt.tries < self._section.max_retries:
            self._sweep.retried += 1
            self._again.append(_Attempt(attempt.evaluation, attempt.tries + 1, worker))
        else:
            self._sweep.finish(attempt.evaluation.number, result)
        self._count()
        self._context.changed()

    def _stop(self, fault: str) -> None:
        """Give up: what failed is no trial's. Its evaluation stays open, so that a resume runs it."""
        self.fault = self.fault or fault
        self._count()

    def _count(self) -> None:
        """Tell the sweep how many workers are at work; a trial that waits for a node is with none."""
        self._sweep.busy = sum(attempt.begun for attempt in self._running.values())

    def save(self, checkpoint_path: str) -> None:
        """The sweep's own record is what a resume starts from."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher; the sweep with its threads and files stays behind."""
        return {}


def _said(error: str, kind: type[Exception]) -> str:
    """Return the message of an exception of ours, as it stands in the text of an error that came over Ray; "" where it is another one."""
    _, told, text = error.rpartition(f"{kind.__module__}.{kind.__qualname__}: ")
    return text.strip().partition("\n")[0] if told else ""


def _cause(error: str) -> str:
    """Return the last sentence of an error; that of an actor that Ray cancelled, with its cause, which stands in the line before."""
    lines = [line.strip() for line in error.splitlines() if line.strip()] or ["the worker died"]
    count = 2 if lines[-1].startswith("The actor never ran") else 1
    return " ".join(lines[-count:])[:500]


class Watch(Callback):  # type: ignore[misc]
    """Tells the searcher what Tune tells no searcher: when a trial begins, and why it failed."""

    def __init__(self, searcher: SweepSearcher) -> None:
        self._searcher = searcher

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Pass on."""
        self._searcher.start(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Pass on, with the trial's error."""
        self._searcher.died(trial.trial_id, Path(trial.error_file).read_text() if trial.error_file else "")


class GiveUp(Stopper):  # type: ignore[misc]
    """Ends Tune's run at once where no worker can evaluate any policy, or the cluster is lost."""

    def __init__(self, searcher: SweepSearcher, lost: Callable[[], str] = str) -> None:
        self._searcher, self._lost = searcher, lost

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its stopper; see `SweepSearcher.__getstate__`."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Tell whether to end."""
        return bool(self._searcher.fault or self._lost())
