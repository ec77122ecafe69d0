"""The training loop: it learns, is deterministic by seed, and leaves the random numbers of others alone."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from quant_core.qat import QatConfig
from tests.quant_core.qat.loop_cases import CONFIG, run, same


def test_training_learns_and_reports_every_epoch() -> None:
    reported: list[dict[str, float]] = []
    modes = []

    def report(model: nn.Module, metrics: dict[str, float]) -> bool:
        modes.append(model.training)
        metrics["mine"] = 7.0
        reported.append(dict(metrics))
        return False

    model, history = run(report=report)
    assert [metrics["epoch"] for metrics in history] == [1, 2, 3]
    assert history == reported
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert 0.05 > history[0]["lr"] > history[1]["lr"] > history[2]["lr"] >= 0
    assert not any(modes)
    assert not model.training


def test_the_report_may_stop_the_training() -> None:
    _, history = run(report=lambda _model, metrics: metrics["epoch"] == 2)
    assert len(history) == 2


def test_the_seed_alone_decides() -> None:
    first, _ = run()
    torch.manual_seed(99)
    again, _ = run()
    other, _ = run(replace(CONFIG, seed=1))
    assert same(first, again)
    assert not same(first, other)


def test_random_numbers_of_others_are_left_alone() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    run(replace(CONFIG, epochs=1))
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected


@pytest.mark.parametrize(
    "config", [replace(CONFIG, autocast="bfloat16"), replace(CONFIG, clip=1.0), replace(CONFIG, optimizer="adamw", lr=0.01)]
)
def test_other_ways_to_train_learn_too(config: QatConfig) -> None:
    model, history = run(config)
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert all(p.dtype == torch.float32 for p in model.parameters())
