"""What runs on a worker: one policy per Tune trial, in an actor that is kept for the next one."""

import os
import random
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ray import tune

from quant_core.policy import Policy
from search.evaluator import Evaluator

HUNG = 75
"""Exit code of a worker that ends itself because its trial hung."""


class TrialError(RuntimeError):
    """The evaluation of a policy failed; Tune tries it again elsewhere, up to `max_retries` times."""


class PolicyTrial(tune.Trainable):  # type: ignore[misc]
    """Evaluates the policy of its configuration. The evaluator comes out of the object store once per actor."""

    def setup(self, config: dict[str, Any], evaluator: Evaluator, threads: int, timeout_s: float) -> None:
        """Keep this actor's private copy of the evaluator."""
        if threads:
            torch.set_num_threads(threads)
        self._evaluator, self._timeout_s = evaluator, timeout_s
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial; random numbers start from its number, whatever this actor ran before."""
        self._number, self._policy = int(new_config["number"]), Policy.from_json(new_config["policy"])
        self._cost: Mapping[str, float] = new_config["cost"]
        random.seed(self._number)
        np.random.seed(self._number)
        torch.manual_seed(self._number)
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate; end the process if it takes longer than the time limit.

        Raises:
            TrialError: the policy could not be evaluated, with the reason.
        """
        start = time.perf_counter()
        watch = threading.Timer(self._timeout_s, os._exit, (HUNG,)) if self._timeout_s else None
        if watch:
            watch.daemon = True
            watch.start()
        try:
            result = self._evaluator(self._policy, self._cost)
        finally:
            if watch:
                watch.cancel()
        if not result.ok:
            raise TrialError(result.reason)
        return {"metric": dict(result.metrics), "seconds": time.perf_counter() - start, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to keep: a trial is one evaluation."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to take up."""
