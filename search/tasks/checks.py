"""The checks of a task before anything is measured, and its splits as `(inputs, targets)`: what does not fit is said in one sentence."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from quant_core.network.forward import call, rows_of, with_fresh_inputs
from quant_core.network.outputs import judged_output, with_output
from quant_core.util.errors import BitfrontError, InputError, first_line
from quant_core.util.rng import repeatable
from quant_core.util.text import listed
from search.tasks.batches import Divided, Weighted, cut, parted, size_of
from search.tasks.metrics.classes import class_axis, require_axis
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
    """Return the task with its judged output named, the axis of classes known, and inputs kept from a network that writes into them.

    Raises:
        BitfrontError: the network fails on the first validation example, or gives no output to judge.
    """
    task = replace(task, model=with_output(task.model, task.output))
    inputs, labels = _first_example(task)
    outputs, changed = _called(task, inputs)
    task = replace(task, model=with_fresh_inputs(task.model)) if changed else task
    if task.judges:
        return replace(task, class_axis=_probed_axis(task, outputs, labels))
    if task.class_axis is not None:
        require_axis(outputs, task.class_axis)
    for split in SPLITS if task.batch is not None else ():
        with repeatable():
            _, targets = next(iter(getattr(task, split)))
        if not isinstance(targets, Tensor):
            kind = "sample weights" if isinstance(targets, Weighted) else f"{_kinds(targets)} for targets"
            raise InputError(f"{split} has {kind}, which the score does not take; give metrics: Task(..., metrics='accuracy').")
    return task


def _first_example(task: Task) -> tuple[Any, Any]:
    """Return the inputs and the labels of the first validation example; of the first batch where no input has a row per label."""
    with repeatable(), torch.inference_mode():
        inputs, targets = next(iter(task.valid))
        size, (labels, _) = size_of(inputs, targets), parted(targets)
        first = cut(inputs, 1, size)
        same = all(leaf is before for leaf, before in zip(rows_of(first), rows_of(inputs), strict=True))
        return (inputs, labels) if same else (first, cut(labels, 1, size))


def _probed_axis(task: Task, outputs: Tensor, targets: Any) -> int | None:
    """Return the axis of classes in the judged output of an example, from the shapes; None: values.

    Raises:
        InputError: no axis fits, or the task names one that the output does not have.
    """
    labelled = isinstance(targets, Tensor) and not targets.is_floating_point()
    if labelled and any(judge.classes and not judge.against_float for judge in task.judges):
        return class_axis(outputs, targets, task.class_axis)
    if task.class_axis is not None:
        require_axis(outputs, task.class_axis)
    classes = any(judge.classes for judge in task.judges)
    return (-1 if outputs.dim() == 3 else 1) if task.class_axis is None and classes else task.class_axis


def _called(task: Task, inputs: Any) -> tuple[Tensor, bool]:
    """Return the judged output of an example, and whether the network writes into its inputs.

    Raises:
        BitfrontError: the network fails on it, or gives no output to judge.
    """
    passed = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)
    with repeatable(), torch.inference_mode():
        try:
            outputs = call(task.model, passed)
        except Exception as error:
            raise BitfrontError(_failure(task, inputs, error)) from error
        pairs = zip(tree_leaves(passed), tree_leaves(inputs), strict=True)
        return judged_output(task.model, outputs), any(isinstance(leaf, Tensor) and not leaf.equal(before) for leaf, before in pairs)


def _failure(task: Task, inputs: Any, error: Exception) -> str:
    """Return the message about a network that fails on the first example."""
    said = f"the network fails on the first example of valid with {first_line(error)}"
    if "does not require grad" in str(error):
        return (
            f"{said}: it differentiates itself; write that part of its forward pass under torch.inference_mode(False) and "
            "torch.enable_grad(), of x.clone(), and leave activations in float."
        )
    if _takes_the_batch(task):
        return (
            f"{said}, though it takes the whole batch; let it take one example (no squeeze() of all axes), and where tensors are no rows "
            "of examples (edges of a graph, offsets of bags) give them an axis of examples, as [1, ...], which the network takes off."
        )
    handed = f"the arguments {listed(inputs)}" if isinstance(inputs, dict) else _kinds(inputs)
    return (
        f"{said} (it was called with {handed}); give batches that it takes, or a batch function: "
        "Task(..., batch=lambda batch: (inputs, targets))."
    )


def _takes_the_batch(task: Task) -> bool:
    with repeatable(), torch.inference_mode():
        inputs, targets = next(iter(task.valid))
        if size_of(inputs, targets) < 2:
            return False
        try:
            call(task.model, inputs)
        except Exception:  # whatever the network raises
            return False
    return True


def _kinds(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return listed(_kinds(part) for part in value) if isinstance(value, tuple | list) else f"a {type(value).__name__}"
