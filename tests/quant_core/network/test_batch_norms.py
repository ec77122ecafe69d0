"""Inputs made of the statistics in batch norms: they fit them, nothing else changes, and networks without them are refused."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quant_core.network.batch_norms import synthetic_inputs, tracked
from quant_core.util.errors import BitfrontError, InputError

SHAPE = (2, 8, 8)


class Net(nn.Module):
    """Two convolutions with batch norms, whose statistics are those of inputs that are no noise."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6, momentum=None)
        self.second, self.norm2 = nn.Conv2d(6, 8, 3, stride=2), nn.BatchNorm2d(8, momentum=None)
        self.calls = 0
        with torch.no_grad():
            for _ in range(20):
                self(scale * (5 + 3 * torch.rand(16, *SHAPE).cumsum(dim=3)))
        self.calls = 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y: Tensor = self.norm2(self.second(self.norm1(self.first(x)).relu()))
        return y.mean(dim=(2, 3))


def far(model: Net, parts: list[Tensor]) -> float:
    """Return the mean distance of the statistics of both norms' inputs from the running ones, by numpy, in float64."""
    total = []
    for part in parts:
        with torch.no_grad():
            first = model.first(part)
            second = model.second(model.norm1(first).relu())
        for norm, given in ((model.norm1, first), (model.norm2, second)):
            x = given.double().numpy()
            scale = np.sqrt(norm.get_buffer("running_var").double().numpy() + norm.eps)
            mean = (x.mean(axis=(0, 2, 3)) - norm.get_buffer("running_mean").double().numpy()) / scale
            total.append(float(np.mean(mean**2 + (x.std(axis=(0, 2, 3)) / scale - 1) ** 2)))
    return sum(total) / len(total)


@pytest.mark.parametrize("scale", [0.004, 1.0, 70.0])
def test_inputs_have_the_statistics_of_training_at_every_norm(scale: float) -> None:
    model = Net(scale)
    noise, made = (synthetic_inputs(model, SHAPE, 32, steps=steps) for steps in (0, 100))
    assert [part.shape for part in made] == [(16, *SHAPE)] * 2
    assert far(model, noise) > 5
    assert far(model, made) < 0.4


def test_one_forward_pass_per_step_and_the_network_is_left_as_it_was() -> None:
    model = Net()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    made = synthetic_inputs(model, SHAPE, 17, steps=5)
    assert model.calls == 9 + 2 * 5
    assert [len(part) for part in made] == [9, 8], "no batch of one input: it has no deviation"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(norm._forward_pre_hooks for norm in tracked(model))
    assert not any(parameter.grad is not None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.cat(made), torch.cat(synthetic_inputs(model, SHAPE, 17, steps=5)))
    assert not torch.equal(torch.cat(made), torch.cat(synthetic_inputs(model, SHAPE, 17, steps=5, seed=1)))


def test_networks_that_tell_nothing_of_their_inputs_are_refused() -> None:
    for norm in (nn.Identity(), nn.GroupNorm(2, 6), nn.BatchNorm2d(6, track_running_stats=False)):
        with pytest.raises(InputError, match=r"^Sequential has no batch norm that keeps running statistics.*give calibration data\.$"):
            synthetic_inputs(nn.Sequential(nn.Conv2d(2, 6, 3), norm).eval(), SHAPE, 4)

    class Unused(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 2)
            self.norm = nn.BatchNorm1d(2)

    with pytest.raises(InputError, match="no batch norm of Unused is reached"):
        synthetic_inputs(Unused().eval(), (4,), 4)
    broken = Net()
    broken.norm2.get_buffer("running_mean").fill_(torch.nan)
    with pytest.raises(BitfrontError, match="statistics of batch norms lie nan from the running ones"):
        synthetic_inputs(broken, SHAPE, 4)
