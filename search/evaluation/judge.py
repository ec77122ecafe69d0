"""The metrics of a task over a split, gathered batch by batch, and the float network's outputs that some of them compare with."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.network.forward import call, forward
from quant_core.network.outputs import judged_output
from quant_core.util.errors import BitfrontError
from quant_core.util.rng import repeatable
from search.tasks.batches import parted
from search.tasks.losses import batch_loss
from search.tasks.metrics.metric import Judged, Metric, State
from search.tasks.metrics.own import checked
from search.tasks.metrics.shapes import shapes_of
from search.tasks.task import Batch, Task

KEPT_BYTES = 256 * 2**20
"""Outputs of the float network that are kept of one split; those of further batches are computed again."""


class FloatOutputs:
    """The float network's outputs on the batches of one split, kept up to a number of bytes.

    Args:
        model: the float network.
        most: bytes kept.
    """

    def __init__(self, model: nn.Module, most: int = KEPT_BYTES) -> None:
        self._model, self._room = model, most
        self._kept: dict[int, Tensor] = {}

    def __call__(self, position: int, inputs: Any) -> Tensor:
        """Return the outputs on the batch at a position of the split; noise in the network is the same every time."""
        if position in self._kept:
            return self._kept[position]
        with repeatable():
            outputs = forward(self._model, inputs)
        size = outputs.numel() * outputs.element_size()
        if size <= self._room:
            self._kept[position], self._room = outputs, self._room - size
        return outputs


def judge(model: nn.Module, batches: Iterable[Batch], task: Task, floats: FloatOutputs | None = None) -> dict[str, float]:
    """Return every figure of the task's metrics over one split, `error` (of the first metric) and `loss`.

    Args:
        model: the network that is judged.
        batches: of one split.
        task: its metrics; its model is the float network.
        floats: kept outputs of the float network on this split.

    Raises:
        BitfrontError: an output is not finite, the split is empty, or a metric or the loss fails or gives something else.
    """
    judges = task.judges
    states = [entry.start() for entry in judges]
    floats = floats or FloatOutputs(task.model, 0)
    loss, weight, count = 0.0, 0.0, 0
    with torch.inference_mode(), repeatable():
        for count, (inputs, targets) in enumerate(batches, start=1):
            batch = _batch(model, inputs, targets, task, f"batch {count}")
            if any(entry.against_float for entry in judges):
                batch = _beside(batch, floats(count - 1, inputs))
            for entry, state in zip(judges, states, strict=True):
                _update(entry, state, batch)
            part = _loss(task, batch)
            if part is not None:
                loss, weight = loss + float(part[0]) * part[1], weight + part[1]
    if not count:
        raise BitfrontError("the split is empty: no example to measure on")
    figures: dict[str, float] = {}
    for entry, state in zip(judges, states, strict=True):
        values = _values(entry, state)
        figures |= {info.name: checked(value, info.name, count) for info, value in zip(entry.infos, values, strict=True)}
    error = judges[0].infos[0].error(figures[judges[0].name])
    mean = loss / weight if weight else error
    if not math.isfinite(mean):
        raise BitfrontError(f"the task's loss is {mean}; a finite one is needed")
    return figures | {"error": error, "loss": mean}


def _batch(model: nn.Module, inputs: Any, targets: Any, task: Task, place: str) -> Judged:
    whole = call(model, inputs)
    outputs = judged_output(model, whole)
    if not bool(torch.isfinite(outputs).all()):
        raise BitfrontError(f"the network returned NaN or infinity (output of shape {tuple(outputs.shape)})")
    targets, weights = parted(targets)
    return Judged(outputs, targets, weights, None, whole, task.class_axis, place)


def _beside(batch: Judged, float_outputs: Tensor) -> Judged:
    return Judged(batch.outputs, batch.targets, batch.weights, float_outputs, batch.whole, batch.axis, batch.place)


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
        f"metric {entry.name!r} failed with {type(error).__name__}: {str(error).partition(chr(10))[0]}{shapes}; choose another metric, or "
        f"give it what it takes: Task(..., output=..., batch=...)."
    )


def _loss(task: Task, batch: Judged) -> tuple[Tensor, float] | None:
    try:
        return batch_loss(task, batch)
    except BitfrontError:
        raise
    except Exception as error:
        raise BitfrontError(
            f"the task's loss failed with {type(error).__name__}: {str(error).partition(chr(10))[0]} ({shapes_of(batch)}); give Task a loss "
            f"(outputs, targets) -> scalar."
        ) from error
