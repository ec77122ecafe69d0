"""Metrics of classes: accuracy, perplexity, macro F1 and mean intersection over union. Labels of -100 are not judged."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quant_core.util.errors import InputError
from search.tasks.batches import IGNORED
from search.tasks.metrics.info import MetricInfo
from search.tasks.metrics.metric import Metric
from search.tasks.metrics.shapes import expanded_weights, shapes_of
from search.tasks.metrics.state import Judged


class Rows(NamedTuple):
    """The judged predictions of a batch: logits [P, C], labels [P], weights [P]."""

    logits: Tensor
    labels: Tensor
    weights: Tensor


def class_axis(outputs: Tensor, labels: Tensor, axis: int | None) -> int | None:
    """Return the axis of `outputs` that holds the classes of `labels`: the one without which the shapes are equal.

    One logit per label (two classes by its sign) has no axis: None.

    Raises:
        InputError: no axis fits, or two do.
    """
    if axis is not None and outputs.shape != labels.shape:
        require_axis(outputs, axis)
        fitting = [axis % outputs.dim()] if _without(outputs, axis) == labels.shape else []
    else:
        fitting = [k for k in range(1, outputs.dim()) if _without(outputs, k) == labels.shape]
    if len(fitting) == 1:
        return fitting[0]
    if outputs.shape == labels.shape and outputs.is_floating_point():
        return None
    text = f"outputs of shape {tuple(outputs.shape)}, labels of shape {tuple(labels.shape)}"
    if fitting:
        raise InputError(f"{text}: the classes may lie on axis {fitting[0]} or {fitting[-1]}; say which: Task(..., class_axis=AXIS).")
    raise InputError(
        f"{text}: without the axis of classes {'' if axis is None else f'({axis}) '}both must be alike, as (N, C) and (N,); "
        f"give such labels, or name the logits: Task(..., output='NAME')."
    )


def require_axis(outputs: Tensor, axis: int) -> None:
    """Refuse an axis of classes that outputs do not have, or that counts their examples.

    Raises:
        InputError: it is one.
    """
    last = outputs.dim() - 1
    if type(axis) is not int or not axis or not -last <= axis <= last:
        mend = f"give an axis from 1 to {last}, or from -{last} to -1" if last > 1 else "give 1" if last else "leave class_axis out"
        raise InputError(
            f"class_axis = {axis!r} is no axis of classes: outputs have the shape {tuple(outputs.shape)}, axis 0 counts examples; {mend}."
        )


def _without(outputs: Tensor, axis: int) -> torch.Size:
    shape = list(outputs.shape)
    del shape[axis]
    return torch.Size(shape)


def rows(batch: Judged, name: str) -> Rows:
    """Return the judged predictions of a batch.

    Raises:
        InputError: the targets are no labels of the outputs' classes.
    """
    labels = batch.targets
    if not isinstance(labels, Tensor):
        raise InputError(
            f"metric {name!r} needs labels, and the targets of {batch.place} are a {type(labels).__name__}; "
            f"name the part that holds them: Task(..., batch='NAME'), or a function of a batch."
        )
    if labels.is_floating_point() or labels.is_complex():
        raise InputError(
            f"metric {name!r} needs whole-number labels, and those of {batch.place} are {labels.dtype}; convert them: .long(), or, where "
            f"they are one-hot, .argmax(dim=1)."
        )
    axis = class_axis(batch.outputs, labels, batch.axis)
    if axis is None:
        logits = torch.stack([torch.zeros_like(batch.outputs), batch.outputs], dim=-1)
    else:
        logits = batch.outputs.movedim(axis, -1)
        logits = logits if logits.shape[-1] > 1 else torch.cat([torch.zeros_like(logits), logits], dim=-1)
    flat, classes = labels.reshape(-1).long(), logits.shape[-1]
    kept = flat != IGNORED
    flat, weights = flat[kept], expanded_weights(batch, labels.shape).reshape(-1)[kept]
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < classes:
        raise InputError(
            f"labels from {int(flat.min())} to {int(flat.max())} in {batch.place}, and the network has {classes} classes "
            f"({shapes_of(batch)}); give labels from 0 to {classes - 1}, and {IGNORED} where none is judged."
        )
    return Rows(logits.reshape(-1, classes)[kept], flat, weights)


class _Mean:
    """A weighted mean over predictions; of `paired` ones the score of every prediction is kept while all weigh the same."""

    def __init__(
        self, name: str, score: Callable[[Tensor, Tensor], Tensor], finish: Callable[[float], float], paired: bool = False
    ) -> None:
        self._name, self._score, self._finish = name, score, finish
        self._sum = self._weight = 0.0
        self._scores: list[Tensor] | None = [] if paired else None

    def update(self, batch: Judged) -> None:
        logits, labels, weights = rows(batch, self._name)
        scores = self._score(logits, labels)
        self._sum += float((scores.double() * weights).sum())
        self._weight += float(weights.sum())
        if self._scores is not None:
            self._scores = [*self._scores, scores] if bool((weights == 1).all()) else None

    def values(self) -> tuple[float]:
        return (self._finish(self._sum / self._weight) if self._weight else math.nan,)

    def scores(self) -> list[Tensor]:
        return self._scores or []


class _Confusion:
    """Per class: predictions that are right, and all predictions and labels of it; a mean over the classes that occur."""

    def __init__(self, name: str, union: bool) -> None:
        self._name, self._union = name, union
        self._counts = torch.zeros(3, 0, dtype=torch.float64)

    def update(self, batch: Judged) -> None:
        logits, labels, weights = rows(batch, self._name)
        predicted, classes = logits.argmax(dim=-1), logits.shape[-1]
        right = weights * (predicted == labels)
        counted = ((labels, right), (predicted, weights), (labels, weights))
        counts = torch.stack([torch.bincount(index, weight, minlength=classes).cpu() for index, weight in counted])
        self._counts = counts + self._counts if self._counts.shape[1] else counts

    def values(self) -> tuple[float]:
        right, predicted, labelled = self._counts
        whole = predicted + labelled
        if not bool((whole > 0).any()):
            return (math.nan,)
        share = right / (whole - right) if self._union else 2 * right / whole
        return (float(share[whole > 0].mean()),)


def accuracy(top: str = "1") -> Metric:
    """Return the share of labels among the `top` largest logits; "accuracy:5" is the top-5 accuracy.

    Raises:
        InputError: `top` is no number.
    """
    if not top.isdecimal() or not int(top):
        raise InputError(f"metric 'accuracy:{top}' given; write how many of the largest logits count, as in accuracy:5.")
    name = "accuracy" if top == "1" else f"accuracy_top{top}"

    def score(logits: Tensor, labels: Tensor) -> Tensor:
        if top == "1":
            return logits.argmax(dim=-1) == labels
        return (logits.topk(min(int(top), logits.shape[-1]), dim=-1).indices == labels[:, None]).any(dim=-1)

    return Metric((MetricInfo(name, True, "%", 1.0, 1.0),), lambda: _Mean(name, score, float, paired=True), classes=True)


def perplexity() -> Metric:
    """Return the exponential of the mean negative log-likelihood of the labels."""

    def nll(logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits.float(), labels, reduction="none")

    def finish(mean: float) -> float:
        return math.exp(mean) if mean < 700.0 else math.inf

    return Metric((MetricInfo("perplexity", False, "", 0.0),), lambda: _Mean("perplexity", nll, finish), classes=True)


def f1() -> Metric:
    """Return the F1 score, 2 TP / (2 TP + FP + FN), as the mean over the classes that occur (macro)."""
    return Metric((MetricInfo("f1", True, "%", 1.0, 1.0),), lambda: _Confusion("f1", union=False), classes=True)


def iou() -> Metric:
    """Return the intersection over union, TP / (TP + FP + FN), as the mean over the classes that occur."""
    return Metric((MetricInfo("iou", True, "%", 1.0, 1.0),), lambda: _Confusion("iou", union=True), classes=True)
