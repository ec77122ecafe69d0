"""Metrics of classes against scikit-learn: whatever the axis, the batches, the labels of -100 and the weights."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score, log_loss, top_k_accuracy_score
from torch import Tensor

from search.tasks.metrics.classes import accuracy, class_axis, f1, iou, perplexity
from search.tasks.metrics.metric import Metric
from search.tasks.metrics.state import Judged

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(60, 4, generator=GENERATOR) * 2
LABELS = torch.randint(0, 3, (60,), generator=GENERATOR)  # class 3 is predicted and never right
WEIGHTS = torch.rand(60, generator=GENERATOR)


def value(metric: Metric, *batches: tuple[Any, ...], axis: int | None = None) -> float:
    """Return a metric's first figure over batches of (outputs, targets) or (outputs, targets, weights)."""
    state = metric.start()
    for batch in batches:
        state.update(Judged(*batch, axis=axis))
    return state.values()[0]


def batches(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Return tensors in ragged batches."""
    return list(zip(*(torch.split(tensor, [7, 1, 52]) for tensor in tensors), strict=True))


def oracle(name: str, weights: Tensor | None = None) -> float:
    predicted, labels = LOGITS.argmax(dim=1).numpy(), LABELS.numpy()
    weight = None if weights is None else weights.numpy()
    if name == "accuracy":
        return float(np.average(predicted == labels, weights=weight))
    if name == "perplexity":
        return math.exp(log_loss(labels, LOGITS.double().softmax(dim=1).numpy(), sample_weight=weight, labels=range(4)))
    score = f1_score if name == "f1" else jaccard_score
    return float(score(labels, predicted, average="macro", sample_weight=weight, labels=range(4)))


METRICS = {"accuracy": accuracy(), "perplexity": perplexity(), "f1": f1(), "iou": iou()}
BY_METRIC = pytest.mark.parametrize("name", METRICS)


@BY_METRIC
def test_figures_are_those_of_scikit_learn_however_the_set_is_cut(name: str) -> None:
    assert value(METRICS[name], *batches(LOGITS, LABELS)) == pytest.approx(oracle(name), rel=1e-6)
    assert value(METRICS[name], *batches(LOGITS, LABELS, WEIGHTS)) == pytest.approx(oracle(name, WEIGHTS), rel=1e-6)


@BY_METRIC
def test_labels_of_minus_100_are_not_judged(name: str) -> None:
    outputs = torch.cat([LOGITS, torch.full((5, 4), 9.0)])
    targets = torch.cat([LABELS, torch.full((5,), -100)])
    assert value(METRICS[name], (outputs, targets)) == pytest.approx(oracle(name), rel=1e-6)


@BY_METRIC
def test_sequences_and_images_are_judged_by_position(name: str) -> None:
    wanted = pytest.approx(oracle(name), rel=1e-6)
    assert value(METRICS[name], (LOGITS.view(6, 10, 4), LABELS.view(6, 10))) == wanted
    assert value(METRICS[name], (LOGITS.view(6, 2, 5, 4).movedim(-1, 1), LABELS.view(6, 2, 5))) == wanted
    assert value(METRICS[name], (LOGITS.view(15, 4, 4), LABELS.view(15, 4)), axis=-1) == wanted


def test_a_weight_may_be_one_of_every_position() -> None:
    batch = (LOGITS.view(6, 10, 4), LABELS.view(6, 10), WEIGHTS.view(6, 10))
    assert value(accuracy(), batch) == pytest.approx(oracle("accuracy", WEIGHTS), rel=1e-6)
    by_example = WEIGHTS[:6].repeat_interleave(10)
    assert value(accuracy(), (*batch[:2], WEIGHTS[:6])) == pytest.approx(oracle("accuracy", by_example), rel=1e-6)


def test_one_logit_is_two_classes_by_its_sign() -> None:
    logit, labels = LOGITS[:, 0], (LABELS > 0).long()
    share = float(((logit > 0) == labels.bool()).float().mean())
    nll = torch.nn.functional.binary_cross_entropy_with_logits(logit, labels.float())
    for outputs in (logit, logit[:, None]):
        assert value(accuracy(), (outputs, labels)) == pytest.approx(share)
        assert value(perplexity(), (outputs, labels)) == pytest.approx(math.exp(float(nll)), rel=1e-6)


def test_the_top_k_count() -> None:
    wanted = top_k_accuracy_score(LABELS.numpy(), LOGITS.numpy(), k=2, labels=range(4))
    assert value(accuracy("2"), (LOGITS, LABELS)) == pytest.approx(wanted)
    assert accuracy("2").name == "accuracy_top2"
    assert value(accuracy("9"), (LOGITS, LABELS)) == 1.0  # more than there are classes


def test_a_perplexity_that_no_float_holds_is_infinite() -> None:
    assert value(perplexity(), (torch.tensor([[0.0, 1e4]]), torch.tensor([0]))) == math.inf


def test_nothing_to_judge_is_no_figure() -> None:
    for metric in METRICS.values():
        assert math.isnan(value(metric, (LOGITS, LABELS * 0 - 100)))


def test_the_axis_of_classes_follows_from_the_shapes() -> None:
    assert class_axis(torch.zeros(2, 5, 7), torch.zeros(2, 5).long(), None) == 2
    assert class_axis(torch.zeros(2, 7, 5), torch.zeros(2, 5).long(), None) == 1
    assert class_axis(torch.zeros(2, 5, 5), torch.zeros(2, 5).long(), -1) == 2
    assert class_axis(torch.zeros(2, 5), torch.zeros(2, 5).long(), None) is None


@pytest.mark.parametrize(
    ("name", "own"), [("MulticlassAccuracy", accuracy()), ("MulticlassF1Score", f1()), ("MulticlassJaccardIndex", iou())]
)
def test_figures_are_those_of_torchmetrics(name: str, own: Metric) -> None:
    classification = pytest.importorskip("torchmetrics.classification", reason="torchmetrics is not installed")
    average = {"average": "micro"} if name == "MulticlassAccuracy" else {}
    theirs = getattr(classification, name)(num_classes=4, ignore_index=-100, **average)
    assert value(own, *batches(LOGITS, LABELS)) == pytest.approx(float(theirs(LOGITS, LABELS)), rel=1e-5)
