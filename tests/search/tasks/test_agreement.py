"""Agreement tasks: seeded noise, targets from the float network, 100 % by construction."""

from pathlib import Path

import pytest
import torch
from torch import nn

from quant_core.util.errors import InputError
from search.tasks import load
from search.tasks.agreement import agreement, closeness, noise
from search.tasks.task import Task

SIZES = {"train_size": 8, "calib_size": 8, "valid_size": 96, "test_size": 96}


def accuracy(task: Task, model: nn.Module) -> float:
    with torch.no_grad():
        return float(torch.cat([task.score(model(x), y) for x, y in task.valid]).mean())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlperf_tiny", {"network": "resnet8"}),
        ("mlperf_tiny", {"network": "mobilenet"}),
        ("mlperf_tiny", {"network": "dscnn"}),
        ("mlperf_tiny", {"network": "autoencoder"}),
        ("resnet20_cifar10", {}),
    ],
)
def test_float_networks_agree_with_themselves_and_spoilt_ones_less(shared_data: Path, name: str, options: dict[str, object]) -> None:
    task = load(name, {"path": str(shared_data), **SIZES, **options})
    assert accuracy(task, task.model) == 1.0
    with torch.no_grad():
        for parameter in task.model.parameters():
            if parameter.dim() > 1:
                step = parameter.abs().max() / 3
                parameter.copy_((parameter / step).round() * step)
    assert accuracy(task, task.model) < 0.99
    inputs, targets = task.valid[0]  # type: ignore[index]
    assert bool(torch.isfinite(task.loss(task.model(inputs), targets)))


def test_answers_differ_between_inputs(shared_data: Path) -> None:
    for name, options in (("mlperf_tiny", {"network": "resnet8"}), ("resnet20_cifar10", {})):
        task = load(name, {"path": str(shared_data), **SIZES, **options})
        answers = torch.cat([targets for _, targets in task.test]).bincount()
        assert int((answers > 0).sum()) >= 4
        assert int(answers.max()) < 0.7 * int(answers.sum())


def test_noise_is_seeded_and_keeps_its_range() -> None:
    model = nn.Flatten()
    first, second, other = (agreement(model, (1, 6, 6), (1.0, -2.0, 5.0), seed, (4, 4, 4, 4)) for seed in (0, 0, 1))
    assert torch.equal(first.test[0][0], second.test[0][0])  # type: ignore[index]
    assert not torch.equal(first.test[0][0], other.test[0][0])  # type: ignore[index]
    assert not torch.equal(first.test[0][0], first.valid[0][0])  # type: ignore[index]
    values = noise(200, (640,), (5.0, -2.0, 5.0), torch.Generator().manual_seed(0))
    assert values.shape == (200, 640)
    assert -2.0 <= float(values.min()) < -1.5
    assert 4.5 < float(values.max()) <= 5.0


def test_closeness_is_one_minus_the_relative_squared_error() -> None:
    targets = torch.tensor([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0]])
    outputs = torch.tensor([[3.0, 4.0], [3.0, 3.0], [-9.0, 4.0]])
    torch.testing.assert_close(closeness(outputs, targets), torch.tensor([1.0, 0.96, 0.0]))


def test_unknown_reference_and_bad_sizes_are_refused(shared_data: Path) -> None:
    with pytest.raises(InputError, match=r"unknown MLPerf Tiny network 'resnet'; known: .*Did you mean 'resnet8'"):
        load("mlperf_tiny", {"network": "resnet"})
    with pytest.raises(InputError, match="valid_size = 0: give a whole number"):
        load("mlperf_tiny", {"path": str(shared_data), "valid_size": 0})
