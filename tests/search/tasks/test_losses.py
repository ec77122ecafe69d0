"""The loss that fits a task's metrics."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant_core.util.errors import InputError
from search.tasks.batches import Weighted
from search.tasks.losses import batch_loss, training_loss
from search.tasks.metrics.state import Judged
from search.tasks.task import Task

LOGITS, LABELS, WEIGHTS = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3, torch.arange(8.0)


def task(metrics: Any, **changes: Any) -> Task:
    return Task(nn.Identity(), [], [], [], [], metrics=metrics, **changes)


def test_classes_have_cross_entropy_over_the_judged_labels() -> None:
    labels = torch.where(LABELS == 2, -100, LABELS)
    loss, weight = batch_loss(task("f1"), Judged(LOGITS, labels)) or (torch.tensor(0.0), 0.0)
    assert float(loss) == pytest.approx(float(nn.functional.cross_entropy(LOGITS, labels)), rel=1e-6)
    assert weight == float((LABELS != 2).sum())
    sequence = training_loss(task("perplexity"))(LOGITS.view(2, 4, 3), LABELS.view(2, 4))
    assert float(sequence) == pytest.approx(float(nn.functional.cross_entropy(LOGITS, LABELS)), rel=1e-6)


def test_values_have_the_mean_squared_error() -> None:
    loss = training_loss(task("psnr"))(LOGITS[:, :1], LOGITS[:, 1])
    assert float(loss) == pytest.approx(float((LOGITS[:, 0] - LOGITS[:, 1]).square().mean()))


def test_sample_weights_weigh_the_loss() -> None:
    nll = nn.functional.cross_entropy(LOGITS, LABELS, reduction="none")
    wanted = float((nll * WEIGHTS).sum() / WEIGHTS.sum())
    assert float(training_loss(task("accuracy"))(LOGITS, Weighted(LABELS, WEIGHTS))) == pytest.approx(wanted, rel=1e-6)

    def own(outputs: Tensor, _targets: Tensor, weights: Tensor) -> Tensor:
        return (outputs[:, 0] * weights).mean()

    assert training_loss(task("accuracy", loss=own))(LOGITS, Weighted(LABELS, WEIGHTS)) == (LOGITS[:, 0] * WEIGHTS).mean()


def test_targets_that_no_loss_fits_are_told_when_training_begins() -> None:
    boxes = [{"boxes": LOGITS}]
    assert batch_loss(task("map"), Judged(LOGITS, boxes)) is None
    with pytest.raises(InputError, match=r"no loss fits the targets of train: give Task a loss .*, or a training_step .* fidelity = 'ptq'"):
        training_loss(task("map"))(LOGITS, boxes)


def test_a_task_without_metrics_keeps_its_loss() -> None:
    assert training_loss(task(())) is nn.functional.cross_entropy
