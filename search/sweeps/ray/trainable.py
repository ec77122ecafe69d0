"""What runs on a worker: one policy per Tune trial, in an actor that is kept for the next one."""

import faulthandler
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune

from quant_core.spec.policy import Policy
from quant_core.util.allocator import keep_pages
from search.records.result import Result
from search.sweeps.ray.placement import placed
from search.sweeps.ray.schedulers import SCORE
from search.sweeps.ray.shipping import SentEvaluator
from search.sweeps.ray.worker_report import WorkerReport


class TrialError(RuntimeError):
    """Two policies in a row failed in this process: a fresh one takes its place."""


class PolicyTrial(tune.Trainable):  # type: ignore[misc]
    """Evaluates the policy of its configuration. The evaluator comes out of the object store once per actor."""

    def setup(self, config: dict[str, Any], evaluator: SentEvaluator, device: str, threads: int, timeout_s: float, scored: str) -> None:
        """Keep this actor's private copy of the evaluator on `device`; `scored` is what a scheduler compares, "" without one."""
        keep_pages()
        if threads:
            torch.set_num_threads(threads)
        self._evaluator = placed(evaluator.opened(), torch.device(device))
        self._timeout_s, self._scored, self._failed = timeout_s, scored, False
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial; random numbers start from its number, whatever this actor ran before."""
        self._number, self._policy = int(new_config["number"]), Policy.from_json(new_config["policy"])
        self._fidelity: str = new_config["fidelity"]
        self._after = [Policy.from_json(policy) for policy in new_config["after"]]
        random.seed(self._number)
        np.random.seed(self._number)
        torch.manual_seed(self._number)
        self._before = self._evaluator.cache_counts()
        scheduled = self._scored and new_config["schedulable"]
        self._steps = self._evaluator.steps(self._policy, self._fidelity, self._after) if scheduled else self._once()
        return True

    def _once(self) -> Iterator[Result]:
        """Evaluate in one step, for a trial that no scheduler may stop."""
        yield self._evaluator(self._policy, self._fidelity, self._after)

    def step(self) -> dict[str, Any]:
        """Evaluate, with a scheduler up to the next rung; the process ends if it takes longer than the time limit.

        Raises:
            TrialError: this policy failed, and so did the one before: the fault may be this process, which Tune then replaces.
        """
        with _limited(self._timeout_s):
            result = next(self._steps)
        if result.failed and self._failed:
            raise TrialError(result.reason)
        self._failed = result.failed
        score = {SCORE: result.metrics[self._scored]} if self._scored in result.metrics else {}
        worker = f"{os.uname().nodename}:{os.getpid()}"
        weights, ranges = (now.since(before) for now, before in zip(self._evaluator.cache_counts(), self._before, strict=True))
        report = WorkerReport(result, worker, weights, ranges)
        return {"report": report.dumps(), "done": result.status != "stopped"} | score

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to keep: a trial is one evaluation."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to take up."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """End the process after so many seconds (0: never), even where one long call into C keeps Python from running."""
    if not seconds:
        yield
        return
    with Path(os.devnull).open("w") as nowhere:
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
