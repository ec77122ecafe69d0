"""Metrics that users bring: functions of a whole set, and objects in the form of torchmetrics."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quant_core.util.errors import BitfrontError
from search.tasks.metrics.state import Accumulator, Judged


class CollectingState:
    """Keeps all outputs and targets, and gives them to a function at the end."""

    def __init__(self, function: Callable[..., object], name: str) -> None:
        self._function, self._name = function, name
        self._parts: tuple[list[Any], list[Any], list[Any]] = ([], [], [])

    def update(self, batch: Judged) -> None:
        """Keep a batch."""
        for part, value in zip(self._parts, (batch.outputs, batch.targets, batch.weights), strict=True):
            part.append(value)

    def values(self) -> tuple[float]:
        """Return the function's figure; sample weights are its third argument, where there are any."""
        outputs, targets, weights = self._parts
        more = () if weights[0] is None else (_joined(weights),)
        return (number(self._function(_joined(outputs), _joined(targets), *more), self._name),)


class AccumulatorState:
    """A copy of the user's metric object."""

    def __init__(self, accumulator: Accumulator) -> None:
        self._accumulator = copy.deepcopy(accumulator)
        self._accumulator.reset()

    def update(self, batch: Judged) -> None:
        """Pass a batch on."""
        if batch.weights is not None:
            raise BitfrontError("a torchmetrics object takes no sample weights; leave them out of the batch, or give a function.")
        self._accumulator.update(batch.outputs, batch.targets)

    def values(self) -> tuple[float]:
        """Return the object's figure."""
        return (number(self._accumulator.compute(), type(self._accumulator).__name__),)


def number(value: object, name: str) -> float:
    """Return the figure that a user's metric gave.

    Raises:
        BitfrontError: it is no single number.
    """
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return float(value)
    if isinstance(value, np.ndarray | np.generic) and value.size == 1 and value.dtype.kind in "buif":
        return float(value.item())
    if isinstance(value, int | float):
        return float(value)
    kind = f"tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise BitfrontError(
        f"metric {name!r} gave a {kind}; one number for the whole set is needed: return a float, as in float(scores.mean())."
    )


def checked(value: float, name: str, batches: int) -> float:
    """Return a figure of a whole set.

    Raises:
        BitfrontError: it is not finite.
    """
    if not math.isfinite(value):
        raise BitfrontError(
            f"metric {name!r} is {value} over the {batches} batches of the set; a number is needed. Constant outputs have no correlation, "
            f"and a set whose labels are all -100 has nothing to judge."
        )
    return value


def _joined(parts: list[Any]) -> Any:
    """Return batches of one structure as one batch: tensors are concatenated along the first axis, lists appended."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([part if part.dim() else part[None] for part in parts])
    if isinstance(first, dict):
        return {name: _joined([part[name] for part in parts]) for name in first}
    if isinstance(first, list):
        return [entry for part in parts for entry in part]
    if isinstance(first, tuple):
        return tuple(_joined(list(column)) for column in zip(*parts, strict=True))
    return parts
