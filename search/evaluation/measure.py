"""Measuring a network on a split of its task: the figures that everything else compares."""

import itertools
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.network.cutting import forward_in_parts
from quant_core.network.forward import examples_of, to_device
from quant_core.network.reach import EXAMPLES
from quant_core.network.sizes import batches_of_other_sizes
from quant_core.util.errors import BitfrontError, InputError, first_line, first_line_of_foreign
from quant_core.util.rng import repeatable
from search.evaluation.judge import FloatOutputs, judge
from search.evaluation.racing import Watch
from search.tasks.metrics.state import Judged
from search.tasks.reading import Pass, raw
from search.tasks.stream import Stream
from search.tasks.task import Batch, Task


def take(batches: Iterable[Batch], examples: int) -> list[Batch]:
    """Return the first `examples` examples as a list of batches (0: all of them); what shuffles does so alike every time.

    No batch behind them is read.
    """
    reading = Pass("the split", iter(batches) if isinstance(batches, Stream) else raw(batches, 0), examples)
    return list(iter(reading.read, None))


def measure(
    model: nn.Module,
    batches: Iterable[Batch],
    task: Task,
    floats: FloatOutputs | None = None,
    scores: list[Tensor] | None = None,
    at_once: int = 0,
    watch: Watch | None = None,
) -> dict[str, float]:
    """Return the task's metrics (or `accuracy`), `error` and `loss` of a network over one split. Noise in it is the same every time.

    `floats` keeps the float network's outputs on this split, for metrics that compare with them. The score of every example is appended
    to `scores`, batch by batch, where the task is judged by its accuracy. At most `at_once` examples run at once (0: a batch); they are
    judged batch by batch. `watch` sees every batch once it is judged.

    Raises:
        BitfrontError: an output is not finite, the split is empty, or the task's score or loss fails or gives something else.
        OutrunError: `watch` ends the pass.
    """
    if task.judges:
        return judge(model, batches, task, floats, scores, at_once, watch)
    score = loss = 0.0
    count = scored = 0

    def figures() -> dict[str, float]:
        return {"accuracy": score / scored, "error": 1.0 - score / scored, "loss": loss / count}

    with torch.inference_mode(), repeatable():
        for inputs, wanted in batches:
            outputs = forward_in_parts(model, inputs, at_once)
            if not bool(torch.isfinite(outputs).all()):
                raise BitfrontError(f"the network returned NaN or infinity (output of shape {tuple(outputs.shape)})")
            targets = to_device(wanted, outputs.device)
            judged, batch_loss = _judged(task, outputs, targets)
            score += float(judged.sum())
            scored += judged.numel()
            if scores is not None:
                scores.append(judged)
            loss += batch_loss * len(targets)
            count += len(targets)
            if watch is not None:
                watch.add(Judged(outputs, targets), judged, figures)
    if not count or not scored:
        raise BitfrontError("the split is empty: no example to measure on")
    if not math.isfinite(loss):
        raise BitfrontError(f"the task's loss is {loss / count}; a finite one is needed")
    return figures()


def check_first(task: Task, split: str, batches: Iterable[Batch], at_once: int = 0) -> None:
    """Judge the float network on the first batch of a split.

    Raises:
        BitfrontError: the split is empty, or the network or the task's score or loss fails on it.
    """
    try:
        with repeatable():
            first = list(itertools.islice(batches, 1))
        measure(task.model, first, task, at_once=at_once)
    except Exception as error:
        raise BitfrontError(
            f"float network on {split}, first batch: {first_line_of_foreign(error)}. "
            "The front is judged on this split at the end: mend it before the sweep."
        ) from error


def _judged(task: Task, outputs: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Return the scores and the mean loss of one batch."""
    shapes = f"outputs of shape {tuple(outputs.shape)}, targets of shape {tuple(targets.shape)}"
    try:
        scores: object = task.score(outputs, targets)
        loss = float(task.loss(outputs, targets))
    except Exception as error:
        said = first_line(error)
        raise BitfrontError(f"the task's score or loss failed with {said} ({shapes}). {_advice(error)}") from error
    if not isinstance(scores, Tensor) or not scores.dim() or scores.shape != targets.shape[: scores.dim()]:
        given = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise BitfrontError(
            f"the task's score gave {given} ({shapes}); one score in [0, 1] per example is needed, a tensor of shape ({len(targets)},)."
        )
    outside = scores[~((scores >= 0) & (scores <= 1))]
    if outside.numel():
        raise BitfrontError(f"the task's score gave {float(outside[0]):g} for an example; scores in [0, 1] are needed")
    return scores, loss


def other_sizes(task: Task) -> tuple[Any, ...]:
    """Return inputs of any split that differ in length, height or width from the first ones of calibration."""
    with repeatable():
        first = next(inputs for inputs, _ in task.calib)
        splits = itertools.chain(task.calib, task.valid, task.test)
        return batches_of_other_sizes(first, (inputs for inputs, _ in splits))


def traced_inputs(task: Task) -> list[Any]:
    """Return the inputs of the first calibration batches, those that a trace reads: of `reach.EXAMPLES` examples, or all.

    Raises:
        InputError: the calibration split is empty.
    """
    taken: list[Any] = []
    count = 0
    with repeatable():
        for inputs, _ in task.calib:
            taken.append(inputs)
            count += examples_of(inputs)
            if count >= EXAMPLES:
                break
    if not taken:
        raise InputError("the task's calibration split is empty; give at least one batch.")
    return taken


def _advice(error: Exception) -> str:
    """Return the way out of a failed score or loss: a smaller batch where memory ran out, another score where it does not fit."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in str(error).lower():
        return "The memory ran out: let the task give smaller batches, or set fewer run.workers."
    return "Where top-1 and cross-entropy do not fit, give Task a score and a loss of your own."


def first_inputs(task: Task) -> Any:
    """Return the inputs of the first calibration batch.

    Raises:
        InputError: the calibration split is empty.
    """
    with repeatable():
        for inputs, _ in itertools.islice(task.calib, 1):
            return inputs
    raise InputError("the task's calibration split is empty; give at least one batch.")
