"""The checks of a task before anything is measured, and its splits as `(inputs, targets)`: what does not fit is said in one sentence."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from quant_core.network.forward import call
from quant_core.network.outputs import judged_output, with_output
from quant_core.util.errors import BitfrontError, InputError, first_line
from quant_core.util.rng import repeatable
from quant_core.util.text import listed
from search.tasks.batches import Divided, Weighted, cut, parted, size_of
from search.tasks.metrics.classes import class_axis
from search.tasks.reading import check_readable
from search.tasks.stream import SPLITS, Stream
from search.tasks.task import Task


def divided_task(task: Task) -> Task:
    """Return the task whose splits give inputs and targets, however its batches are built.

    Raises:
        InputError: the metrics are wrong, or a split can be read only once.
    """
    sources: dict[str, Any] = {split: getattr(task, split) for split in SPLITS}
    for split, source in sources.items():
        inner = source.source if isinstance(source, Stream) else source
        check_readable(split, inner)
        whole = split == "train" and task.training_step is not None
        if task.judges or task.batch is not None or whole:
            owners = inner.source if isinstance(inner, Divided) else inner
            sources[split] = Divided(owners, task.batch, split, whole=whole)
    return replace(task, **sources)


def probed_task(task: Task) -> Task:
    """Return the task with its judged output named and the axis of classes known.

    Raises:
        BitfrontError: the network fails on the first validation example, or gives no output to judge.
    """
    task = replace(task, model=with_output(task.model, task.output))
    if task.judges:
        return replace(task, class_axis=_probed_axis(task))
    for split in SPLITS if task.batch is not None else ():
        with repeatable():
            _, targets = next(iter(getattr(task, split)))
        if not isinstance(targets, Tensor):
            kind = "sample weights" if isinstance(targets, Weighted) else f"{_kinds(targets)} for targets"
            raise InputError(f"{split} has {kind}, which the score does not take; give metrics: Task(..., metrics='accuracy').")
    return task


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
            f"the network fails on the first example of valid with {first_line(error)} (it was "
            f"called with {handed}); give batches that it takes, or a batch function: Task(..., batch=lambda batch: (inputs, targets))."
        ) from error


def _kinds(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return listed(_kinds(part) for part in value) if isinstance(value, tuple | list) else f"a {type(value).__name__}"
