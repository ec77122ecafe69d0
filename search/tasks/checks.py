"""The checks of a task before anything is measured, and its splits as `(inputs, targets)`: what does not fit is said in one sentence."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from quant_core.network.forward import call
from quant_core.network.outputs import judged_output, with_output
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.rng import repeatable
from quant_core.util.text import listed
from search.tasks.batches import Split, Weighted, cut, is_plain, parted, size_of
from search.tasks.metrics.classes import class_axis
from search.tasks.task import Task

SPLITS = ("train", "calib", "valid", "test")


def prepared_task(name: str, task: Task) -> Task:
    """Return the task as it is measured: splits of `(inputs, targets)`, the judged output named, the axis of classes known.

    Raises:
        InputError: a split is empty, cannot be read again, or gives batches that cannot be divided; or the metrics are wrong.
        BitfrontError: the network fails on the first validation example, or gives no output to judge.
    """
    place = f"task {name!r}"
    if not task.metrics and task.batch is None:
        firsts = [_checked_pair(f"{place}: its {split}", getattr(task, split)) for split in SPLITS]
        if all(is_plain(inputs) for inputs, _ in firsts):
            return replace(task, model=with_output(task.model, task.output))
    try:
        judges = task.judges
        train, calib, valid, test = (_divided(task, split) for split in SPLITS)
        model = with_output(task.model, task.output)
        task = replace(task, model=model, train=train, calib=calib, valid=valid, test=test)
        if not judges:
            for split in SPLITS:
                _checked_pair(f"its {split}", getattr(task, split))
            return task
        return replace(task, class_axis=_probed_axis(task))
    except BitfrontError as error:
        raise type(error)(f"{place}: {error}") from None


def _divided(task: Task, split: str) -> Split:
    source = getattr(task, split)
    _require_iterable(f"its {split}", source)
    if isinstance(source, Split):
        source = source.source
    divided = Split(source, task.batch, split)
    with repeatable():
        first = next(iter(divided), None)
    if first is None:
        raise InputError(f"its {split} is empty; every one of {listed(SPLITS)} needs at least one batch.")
    return divided


def _probed_axis(task: Task) -> int | None:
    """Return the axis of classes in the judged output, from the shapes of the first validation example; None: values.

    Raises:
        BitfrontError: the network fails on it.
    """
    with repeatable(), torch.inference_mode():
        inputs, targets = next(iter(task.valid))
        size, (labels, _) = size_of(inputs, targets), parted(targets)
        inputs, targets = cut(inputs, 1, size), cut(labels, 1, size)
        outputs = judged_output(task.model, _called(task, inputs))
    labelled = isinstance(targets, Tensor) and not targets.is_floating_point()
    if not any(judge.classes for judge in task.judges):
        return task.class_axis
    if labelled and any(judge.classes and not judge.against_float for judge in task.judges):
        return class_axis(outputs, targets, task.class_axis)
    default = -1 if outputs.dim() == 3 else 1
    return task.class_axis if task.class_axis is not None else default


def _called(task: Task, inputs: Any) -> Any:
    try:
        return call(task.model, inputs)
    except Exception as error:
        handed = f"the arguments {listed(inputs)}" if isinstance(inputs, dict) else _kinds(inputs)
        raise BitfrontError(
            f"the network fails on the first example of valid with {type(error).__name__}: {str(error).partition(chr(10))[0]} (it was "
            f"called with {handed}); give batches that it takes, or a batch function: Task(..., batch=lambda batch: (inputs, targets))."
        ) from error


def _kinds(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return listed(_kinds(part) for part in value) if isinstance(value, tuple | list) else f"a {type(value).__name__}"


def _require_iterable(place: str, split: object) -> None:
    if not isinstance(split, Iterable) or isinstance(split, Iterator):
        raise InputError(f"{place} is a {type(split).__name__}; give what can be read again and again: a list of batches or a DataLoader.")


def _checked_pair(place: str, split: object) -> tuple[Any, Any]:
    """Return the first batch of a split: `(inputs, targets)` with a tensor of targets, as a task without metrics needs it."""
    _require_iterable(place, split)
    assert isinstance(split, Iterable)
    with repeatable():
        first: Any = next(iter(split), None)
    targets: Any = first[1] if isinstance(first, tuple | list) and len(first) == 2 else None
    if isinstance(targets, Weighted):
        raise InputError(f"{place} has sample weights, which the score does not take; give metrics: Task(..., metrics='accuracy').")
    batched = isinstance(targets, Tensor) and targets.dim() > 0
    if first is None or (batched and not len(targets)):
        raise InputError(f"{place} is empty; every one of {listed(SPLITS)} needs at least one batch.")
    if not batched:
        kinds = f" of {listed(type(part).__name__ for part in first)}" if isinstance(first, tuple | list) else ""
        raise InputError(
            f"{place} gives batches of type {type(first).__name__}{kinds}; every batch must be (inputs, targets), targets a tensor "
            f"[N, ...] with one entry per example. For other batches give Task metrics, or a batch function."
        )
    return first[0], targets
