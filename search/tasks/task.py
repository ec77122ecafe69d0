"""`Task`: a trained network, its data and its metric; the one thing that a user with an own model writes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Batch = tuple[Any, Tensor]


def top1(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return 1.0 where the largest output is the target, else 0.0: [N, C], [N] -> [N]."""
    return (outputs.argmax(dim=1) == targets).to(torch.float32)


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """A trained network and what it is judged by.

    Attributes:
        model: trained, float, in eval mode.
        train, calib, valid, test: re-iterable collections of batches `(model input, targets)`: a list or a DataLoader. The model is
            called as `model(x)`; a tuple is passed as `model(*x)`, a dict as `model(**x)`. Searchers see `valid`; `calib` sets
            activation ranges; `test` judges the members of the final front, once.
        score: (outputs, targets) -> one score in [0, 1] per example; their mean is the accuracy.
        loss: (outputs, targets) -> mean loss, a scalar; the finer figure, and what quantization-aware training minimizes.
        class_axis: axis of the outputs that holds the logits of classes. None: axis 1 where score or loss is the default one (top-1,
            cross-entropy), otherwise the outputs are taken for values (regression, masks, images).
    """

    model: nn.Module
    train: Iterable[Batch]
    calib: Iterable[Batch]
    valid: Iterable[Batch]
    test: Iterable[Batch]
    score: Callable[[Tensor, Tensor], Tensor] = top1
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy
    class_axis: int | None = None

    @property
    def logits_axis(self) -> int | None:
        """Return the axis of class logits, given or known from score and loss; None where the outputs are values."""
        classifies = self.score is top1 or self.loss is nn.functional.cross_entropy
        return self.class_axis if self.class_axis is not None else 1 if classifies else None

    def __repr__(self) -> str:
        return f"Task({type(self.model).__name__})"
