"""What runs on a worker: one policy per Tune trial, in an actor that is kept for the next one."""

import faulthandler
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune

from quant_core.spec.policy import Policy
from search.evaluation.evaluator import Evaluator
from search.records.result import Result
from search.sweeps.ray.outcome import Outcome
from search.sweeps.ray.schedulers import SCORE


class TrialError(RuntimeError):
    """Two policies in a row failed in this process: a fresh one takes its place."""


class PolicyTrial(tune.Trainable):  # type: ignore[misc]
    """Evaluates the policy of its configuration. The evaluator comes out of the object store once per actor."""

    def setup(self, config: dict[str, Any], evaluator: Evaluator, threads: int, timeout_s: float, scored: str) -> None:
        """Keep this actor's private copy of the evaluator; `scored` is what a scheduler compares, "" without one."""
        if threads:
            torch.set_num_threads(threads)
        self._evaluator, self._timeout_s, self._scored, self._failed = evaluator, timeout_s, scored, False
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial; random numbers start from its number, whatever this actor ran before."""
        self._number, self._policy = int(new_config["number"]), Policy.from_json(new_config["policy"])
        self._cost: Mapping[str, float] = new_config["cost"]
        self._fidelity: str = new_config["fidelity"]
        self._after = [Policy.from_json(policy) for policy in new_config["after"]]
        random.seed(self._number)
        np.random.seed(self._number)
        torch.manual_seed(self._number)
        self._before = replace(self._evaluator.engine.counts), replace(self._evaluator.engine.range_counts)
        scheduled = self._scored and new_config["scheduled"]
        self._steps = self._evaluator.steps(self._policy, self._cost, self._fidelity, self._after) if scheduled else self._once()
        return True

    def _once(self) -> Iterator[Result]:
        """Evaluate in one step, for a trial that no scheduler may stop."""
        yield self._evaluator(self._policy, self._cost, self._fidelity, self._after)

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
        engine, (weights, ranges) = self._evaluator.engine, self._before
        outcome = Outcome.of(result, worker, engine.counts.since(weights), engine.range_counts.since(ranges))
        return {"outcome": outcome.dumps(), "done": result.status != "stopped"} | score

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
