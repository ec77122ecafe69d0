"""The loss of a task on a batch: its own, or the one that fits its metrics."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from quant_core.qat.loop import Step, supervised
from quant_core.util.errors import InputError
from search.tasks.batches import Pair, parted, size_of
from search.tasks.metrics.classes import rows
from search.tasks.metrics.shapes import expanded_weights
from search.tasks.metrics.state import Judged
from search.tasks.task import Task


def batch_loss(task: Task, batch: Judged) -> tuple[Tensor, float] | None:
    """Return the mean loss of a batch, differentiable, and the weight of the batch in the mean over a set.

    Args:
        task: its loss, where it has one. By default cross-entropy where a metric takes classes and the targets are labels, else the mean
            squared error where outputs and targets are alike.
        batch: outputs and targets.

    Returns:
        None where neither fits: the error of the first metric then stands for the loss.
    """
    outputs, targets, weights = batch.outputs, batch.targets, batch.weights
    if task.loss is not nn.functional.cross_entropy:
        return task.loss(outputs, targets, *(() if weights is None else (weights,))), float(size_of(outputs, targets))
    if not isinstance(targets, Tensor):
        return None
    if any(judge.classes for judge in task.judges) and not targets.is_floating_point():
        logits, labels, weight = rows(batch, "loss")
        nll = nn.functional.cross_entropy(logits, labels, reduction="none")
        total = float(weight.sum())
        return ((nll * weight.to(nll.dtype)).sum() / total, total) if total else None
    if targets.is_floating_point() and outputs.numel() == targets.numel():
        weight = expanded_weights(batch, targets.shape).to(outputs.dtype)
        total = float(weight.sum())
        return (((outputs.reshape(targets.shape) - targets).square() * weight).sum() / total, total) if total else None
    return None


def training_step(task: Task) -> Step:
    """Return the step of the training loop: the task's own on undivided batches, or its loss on the judged output of a batch."""
    step = task.training_step
    if step is None:
        return supervised(training_loss(task))
    return lambda model, batch: step(model, batch.inputs if isinstance(batch, Pair) else batch)


def training_loss(task: Task) -> Callable[[Tensor, Any], Tensor]:
    """Return the loss that training minimizes: (outputs, targets of a divided batch) -> scalar.

    Raises:
        InputError: when it is called and no loss fits the task.
    """
    if not task.judges:
        return task.loss

    def loss(outputs: Tensor, targets: Any) -> Tensor:
        targets, weights = parted(targets)
        computed = batch_loss(task, Judged(outputs, targets, weights, axis=task.class_axis))
        if computed is None:
            raise InputError(
                "no loss fits the targets of train: give Task a loss (outputs, targets) -> scalar, or a training_step (model, batch) -> "
                "scalar; or search without training, fidelity = 'ptq'."
            )
        return computed[0]

    return loss
