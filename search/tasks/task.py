"""`Task`: a trained network, its data and its metric; the one thing that a user with an own model writes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.network.outputs import Output
from search.tasks.batches import Rule
from search.tasks.metrics.info import MetricInfo
from search.tasks.metrics.metric import Metric, chosen_metrics

Batch = tuple[Any, Any]


def top1(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return 1.0 where the largest output is the target, else 0.0: [N, C], [N] -> [N]."""
    return (outputs.argmax(dim=1) == targets).to(torch.float32)


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """A trained network and what it is judged by.

    Attributes:
        model: trained, float, in eval mode.
        train, calib, valid, test: re-iterable collections of batches: a list or a DataLoader. A batch is `(inputs, targets)`; with
            `metrics`, or with `batch`, it may have any structure. The model is called as `model(x)`; a tuple is passed as `model(*x)`, a
            mapping as `model(**x)`. Searchers see `valid`; `calib` sets activation ranges; `test` judges the final front, once.
        score: (outputs, targets) -> one score in [0, 1] per example; their mean is the accuracy. Not read where there are `metrics`.
        loss: (outputs, targets) -> mean loss, a scalar; the finer figure, and what quantization-aware training minimizes. Batches with
            sample weights give them as a third argument. By default cross-entropy; for metrics of values the mean squared error.
        class_axis: axis of the outputs that holds the logits of classes. None: with `metrics` of classes, from the shapes; else axis 1
            where score or loss is the default one (top-1, cross-entropy), otherwise the outputs are taken for values.
        metrics: figures of a whole set, in place of `score`: names of `search.tasks.metrics.METRICS`, `bitfront.metric(...)`, functions
            (outputs, targets) -> number, torchmetrics objects; one, a list, or a mapping of names. The first one is searched for.
        output: the part of the model's outputs that is judged and compared: a path ("logits", "1", "boxes.0") or a function of the
            outputs. "": `logits`, else the first tensor.
        batch: how a batch is divided: the key of its labels, or a function batch -> (inputs, targets) or (inputs, targets, sample
            weights). None: a pair, or a mapping or dataclass with `labels` (label, targets, target, y) and perhaps `sample_weight`.
        training_step: (model, batch) -> loss, for training in place of `loss`; the batch is that of `train`, undivided.
        tokenizer: of a language model, as transformers loads it; exports for runtimes of language models write it beside the weights.
    """

    model: nn.Module
    train: Iterable[Batch]
    calib: Iterable[Batch]
    valid: Iterable[Batch]
    test: Iterable[Batch]
    score: Callable[..., Tensor] = top1
    loss: Callable[..., Tensor] = nn.functional.cross_entropy
    class_axis: int | None = None
    metrics: Any = ()
    output: Output = ""
    batch: Rule = None
    training_step: Callable[[nn.Module, Any], Tensor] | None = None
    tokenizer: Any = None

    @cached_property
    def judges(self) -> tuple[Metric, ...]:
        """Return the metrics, the one that is searched for first; none where the task is judged by its score."""
        return chosen_metrics(self.metrics) if self.metrics else ()

    @property
    def infos(self) -> tuple[MetricInfo, ...]:
        """Return names, directions and units of all figures of the metrics; none where the task is judged by its score."""
        return tuple(info for judge in self.judges for info in judge.infos)

    @property
    def figure_names(self) -> tuple[str, ...]:
        """Return the names of all figures but the error: those of the metrics (or the accuracy), and the loss."""
        return (*(info.name for info in self.infos), "loss") if self.judges else ("accuracy", "loss")

    @property
    def logits_axis(self) -> int | None:
        """Return the axis of class logits, given or known from score and loss; None where the outputs are values."""
        if self.judges:
            return self.class_axis
        classifies = self.score is top1 or self.loss is nn.functional.cross_entropy
        return self.class_axis if self.class_axis is not None else 1 if classifies else None

    def __repr__(self) -> str:
        return f"Task({type(self.model).__name__})"
