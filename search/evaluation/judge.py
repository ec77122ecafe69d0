"""The metrics of a task over a split, gathered batch by batch, and the float network's outputs that some of them compare with."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.network.cutting import call_in_parts, forward_in_parts
from quant_core.network.forward import to_device
from quant_core.network.outputs import judged_output
from quant_core.util.errors import BitfrontError, first_line
from quant_core.util.rng import repeatable
from search.evaluation.racing import Watch
from search.tasks.batches import parted
from search.tasks.losses import batch_loss
from search.tasks.metrics.metric import Metric
from search.tasks.metrics.own import checked
from search.tasks.metrics.shapes import shapes_of
from search.tasks.metrics.state import Judged, Scored, State
from search.tasks.task import Batch, Task

KEPT_BYTES = 256 * 2**20
"""Outputs of the float network that are kept of one split; those of further batches are computed again."""


class FloatOutputs:
    """The float network's outputs on the batches of one split, kept up to a number of bytes.

    Args:
        model: the float network.
        most: bytes kept.
        at_once: examples that run at once; 0: a batch.
    """

    def __init__(self, model: nn.Module, most: int = KEPT_BYTES, at_once: int = 0) -> None:
        self._model, self._room, self._at_once = model, most, at_once
        self._kept: dict[int, Tensor] = {}

    def __call__(self, position: int, inputs: Any) -> Tensor:
        """Return the outputs on the batch at a position of the split; noise in the network is the same every time."""
        if position in self._kept:
            return self._kept[position]
        with repeatable():
            outputs = forward_in_parts(self._model, inputs, self._at_once)
        size = outputs.numel() * outputs.element_size()
        if size <= self._room:
            self._kept[position], self._room = outputs, self._room - size
        return outputs


class Judging:
    """The states of a task's metrics over one split.

    Args:
        task: its metrics; its model is the float network.
        floats: kept outputs of the float network on this split.
    """

    def __init__(self, task: Task, floats: FloatOutputs | None = None) -> None:
        self._task, self._floats = task, floats or FloatOutputs(task.model, 0)
        self._states = [entry.start() for entry in task.judges]
        self._loss = self._weight = 0.0
        self._count = 0

    def add(self, inputs: Any, targets: Any, outputs: Tensor, whole: Any) -> Judged:
        """Take one batch, what is judged of the network's outputs and all of them, and return it as it was judged.

        Raises:
            BitfrontError: an output is not finite, or a metric or the loss fails.
        """
        task = self._task
        if not bool(torch.isfinite(outputs).all()):
            raise BitfrontError(f"the network returned NaN or infinity (output of shape {tuple(outputs.shape)})")
        compares = any(entry.against_float for entry in task.judges)
        beside = self._floats(self._count, inputs) if compares else None
        self._count += 1
        targets, weights = to_device(parted(targets), outputs.device)
        batch = Judged(
            outputs, targets, weights, None if beside is None else beside.to(outputs.device), whole, task.class_axis, f"batch {self._count}"
        )
        for entry, state in zip(task.judges, self._states, strict=True):
            _update(entry, state, batch)
        part = _loss(task, batch)
        if part is not None:
            self._loss, self._weight = self._loss + float(part[0]) * part[1], self._weight + part[1]
        return batch

    def scores(self) -> list[Tensor]:
        """Return the first metric's score of every example, batch by batch; nothing where it is a figure of the whole set only."""
        first = self._states[0]
        return first.scores() if isinstance(first, Scored) else []

    def figures(self) -> dict[str, float]:
        """Return every figure of the metrics, `error` (of the first metric) and `loss`.

        Raises:
            BitfrontError: there was no batch, or a metric or the loss is no number.
        """
        if not self._count:
            raise BitfrontError("the split is empty: no example to measure on")
        figures: dict[str, float] = {}
        for entry, state in zip(self._task.judges, self._states, strict=True):
            values = _values(entry, state)
            figures |= {info.name: checked(value, info.name, self._count) for info, value in zip(entry.infos, values, strict=True)}
        first = self._task.judges[0].infos[0]
        error = first.error(figures[first.name])
        loss = self._loss / self._weight if self._weight else error
        if not math.isfinite(loss):
            raise BitfrontError(f"the task's loss is {loss}; a finite one is needed")
        return figures | {"error": error, "loss": loss}


def judge(
    model: nn.Module,
    batches: Iterable[Batch],
    task: Task,
    floats: FloatOutputs | None = None,
    scores: list[Tensor] | None = None,
    at_once: int = 0,
    watch: Watch | None = None,
) -> dict[str, float]:
    """Return every figure of the task's metrics for a network over one split, `error` (of the first metric) and `loss`.

    The first metric's score of every example is appended to `scores`, where it has one. At most `at_once` examples run at once (0: a
    batch). `watch` sees every batch once it is judged.

    Raises:
        BitfrontError: an output is not finite, the split is empty, or a metric or the loss fails or gives something else.
        OutrunError: `watch` ends the pass.
    """
    judging = Judging(task, floats)
    with torch.inference_mode(), repeatable():
        for inputs, targets in batches:
            whole = call_in_parts(model, inputs, at_once)
            batch = judging.add(inputs, targets, judged_output(task.model, whole), whole)
            if watch is not None:
                watch.add(batch, next(iter(judging.scores()[-1:]), None), judging.figures)
    if scores is not None:
        scores += judging.scores()
    return judging.figures()


def _update(entry: Metric, state: State, batch: Judged) -> None:
    try:
        state.update(batch)
    except BitfrontError:
        raise
    except Exception as error:
        raise _failure(entry, error, f" ({shapes_of(batch)})") from error


def _values(entry: Metric, state: State) -> tuple[float, ...]:
    try:
        return tuple(state.values())
    except BitfrontError:
        raise
    except Exception as error:
        raise _failure(entry, error, "") from error


def _failure(entry: Metric, error: Exception, shapes: str) -> BitfrontError:
    return BitfrontError(
        f"metric {entry.name!r} failed with {first_line(error)}{shapes}; choose another metric, or "
        f"give it what it takes: Task(..., output=..., batch=...)."
    )


def _loss(task: Task, batch: Judged) -> tuple[Tensor, float] | None:
    try:
        part = batch_loss(task, batch)
        return part and (torch.as_tensor(float(part[0])), part[1])
    except BitfrontError:
        raise
    except Exception as error:
        raise BitfrontError(
            f"the task's loss failed with {first_line(error)} ({shapes_of(batch)}); give Task a loss (outputs, targets) -> scalar."
        ) from error
