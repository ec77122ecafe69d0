"""`Evaluator`: quantize a network by a policy and measure it. One per process; it owns a private copy of the network."""

import itertools
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from quant_core.errors import BitfrontError, InputError
from quant_core.forward import forward
from quant_core.layer import Layer
from quant_core.policy import Policy
from quant_core.ptq import PostTraining
from quant_core.qat import QatConfig
from quant_core.qat.rng import repeatable
from quant_core.size import average_bits
from search.experiment import EvaluateSection
from search.result import Result
from search.task import Batch, Task


def take(batches: Iterable[Batch], examples: int) -> list[Batch]:
    """Return the first `examples` examples as a list of batches (0: all of them); what shuffles does so alike every time."""
    with repeatable():
        if not examples:
            return list(batches)
        taken: list[Batch] = []
        left = examples
        for inputs, targets in batches:
            if left <= 0:
                break
            taken.append((_cut(inputs, left), targets[:left]))
            left -= len(targets)
        return taken


def _cut(inputs: Any, count: int) -> Any:
    return tree_map(lambda leaf: leaf[:count] if isinstance(leaf, Tensor) and leaf.dim() else leaf, inputs)


def measure(model: nn.Module, batches: Iterable[Batch], task: Task) -> dict[str, float]:
    """Return `accuracy`, `error` (1 - accuracy) and `loss` of a network over one split. Noise in the network is the same every time.

    Raises:
        BitfrontError: an output is not finite, the split is empty, or the task's score or loss fails or gives something else.
    """
    score = loss = 0.0
    count = scored = 0
    with torch.inference_mode(), repeatable():
        for inputs, targets in batches:
            outputs = forward(model, inputs)
            if not bool(torch.isfinite(outputs).all()):
                raise BitfrontError(f"the network returned NaN or infinity (output of shape {tuple(outputs.shape)})")
            scores, batch_loss = _judged(task, outputs, targets)
            score += float(scores.sum())
            scored += scores.numel()
            loss += batch_loss * len(targets)
            count += len(targets)
    if not count or not scored:
        raise BitfrontError("the split is empty: no example to measure on")
    accuracy = score / scored
    if math.isnan(accuracy) or math.isnan(loss) or not 0 <= accuracy <= 1:
        raise BitfrontError(
            f"the task's score gave accuracy {accuracy} and loss {loss / count}; scores in [0, 1] and a finite loss are needed"
        )
    return {"accuracy": accuracy, "error": 1.0 - accuracy, "loss": loss / count}


def _judged(task: Task, outputs: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Return the scores and the mean loss of one batch."""
    shapes = f"outputs of shape {tuple(outputs.shape)}, targets of shape {tuple(targets.shape)}"
    try:
        scores: object = task.score(outputs, targets)
        loss = float(task.loss(outputs, targets))
    except Exception as error:
        raise BitfrontError(
            f"the task's score or loss failed with {type(error).__name__}: {str(error).partition(chr(10))[0]} ({shapes}). "
            f"Where top-1 and cross-entropy do not fit, give Task a score and a loss of your own."
        ) from error
    if not isinstance(scores, Tensor) or not scores.dim() or scores.shape != targets.shape[: scores.dim()]:
        given = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise BitfrontError(
            f"the task's score gave {given} ({shapes}); one score in [0, 1] per example is needed, a tensor of shape ({len(targets)},)."
        )
    return scores, loss


class Evaluator:
    """Evaluates policies of one network: by post-training quantization, or by training each from the float weights.

    Attributes:
        calib: inputs of the calibration batches.
        engine: the post-training engine, with its cache.

    Args:
        task: the network and its splits.
        layers: its layers, from `quant_core.trace.trace`.
        section: sizes of the splits and the options of post-training quantization.
    """

    def __init__(self, task: Task, layers: Iterable[Layer], section: EvaluateSection) -> None:
        self._task, self._section = task, section
        self._qat = QatConfig(**section.qat) if section.fidelity == "qat" else None
        self._trained: tuple[Policy, nn.Module] | None = None
        self._valid = take(task.valid, section.valid)
        self._test_size = section.test
        self._layers = list(layers)
        self.calib = [inputs for inputs, _ in take(task.calib, section.calib)]
        if not self.calib:
            raise InputError("the task's calibration split is empty; give at least one batch.")
        cache_bytes = section.cache_mib * 2**20
        self.engine = PostTraining(
            task.model, self._layers, self.calib, self.calib[0], bias_correction=section.bias_correction, cache_bytes=cache_bytes
        )

    def __call__(self, policy: Policy, cost: Mapping[str, float] | None = None) -> Result:
        """Evaluate one policy on the validation split. Whatever goes wrong is a failed Result with its reason, never an exception."""
        start = time.perf_counter()
        try:
            metrics = self.metrics(policy, "valid") | average_bits(self._layers, policy)
            status, reason = "ok", ""
        except Exception as error:  # a trial that fails must not end the sweep
            metrics, status, reason = {}, "failed", f"{type(error).__name__}: {error}"
        return Result(policy.id, metrics, dict(cost or {}), time.perf_counter() - start, status, reason)

    def float_metrics(self, split: str = "valid") -> dict[str, float]:
        """Return the metrics of the float network on one split ("valid" or "test").

        Raises:
            BitfrontError: the network returns NaN or infinity.
        """
        try:
            return measure(self._task.model, self._split(split), self._task)
        except BitfrontError as error:
            raise BitfrontError(f"float network on {split}: {error}") from None

    def metrics(self, policy: Policy, split: str) -> dict[str, float]:
        """Return the metrics of one policy on one split."""
        return measure(self._quantized(policy), self._split(split), self._task)

    def _quantized(self, policy: Policy) -> nn.Module:
        """Return the network under a policy; at fidelity "qat" trained, the last one being kept for the next split."""
        if self._qat is None:
            return self.engine.apply(policy)
        if self._trained is None or self._trained[0] != policy:
            from search.qat_evaluator import trained

            model, _ = trained(self._task, policy, self._qat, section=self._section)
            self._trained = (policy, model)
        return self._trained[1]

    def _split(self, split: str) -> list[Batch]:
        return self._valid if split == "valid" else take(self._task.test, self._test_size)


def first_inputs(task: Task) -> Any:
    """Return the inputs of the first calibration batch.

    Raises:
        InputError: the calibration split is empty.
    """
    with repeatable():
        for inputs, _ in itertools.islice(task.calib, 1):
            return inputs
    raise InputError("the task's calibration split is empty; give at least one batch.")
