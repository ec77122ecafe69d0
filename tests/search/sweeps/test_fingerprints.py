"""What is cached for one task is never given to another of the same weights and data."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bitfront
from search.config.experiment import Experiment
from search.sweeps.context import SweepContext, open_context


class Network(nn.Module):
    """Two layers, and a forward pass that does something of its own between them."""

    def __init__(self, between: Callable[[Tensor], Tensor] = F.relu, dropout: float = 0.1) -> None:
        super().__init__()
        self.one, self.two, self.between, self.dropout = nn.Linear(6, 8), nn.Linear(8, 3), between, dropout

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.dropout(self.between(self.one(x)), self.dropout, self.training))


def task(model: Network) -> bitfront.Task:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.data.normal_()
        inputs, targets = torch.randn(96, 6), torch.randint(3, (96,))
    calib, valid, test = ((inputs[a : a + 32], targets[a : a + 32]) for a in (0, 32, 64))
    return bitfront.Task(model.eval(), train=[calib], calib=[calib], valid=[valid], test=[test])


def smoothed(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, label_smoothing=0.2)


def half_gradient(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy by value, with half of its gradient."""
    loss = F.cross_entropy(outputs, targets)
    return loss / 2 + loss.detach() / 2


def opened(made: bitfront.Task) -> SweepContext:
    sections = {
        "task": {"name": "own"},
        "space": {"weight": ["int2:channel:mse", "int8:channel:mse"], "activation": ["int8:tensor:mse"]},
        "device": {"name": "counts"},
        "evaluate": {"fidelity": "qat", "qat": {"epochs": 1}},
        "run": {"threads": 0},
    }
    return open_context(Experiment.model_validate(sections), made)


OTHERS = {
    "loss": (replace(task(Network()), loss=smoothed), True),
    "gradient": (replace(task(Network()), loss=half_gradient), False),
    "forward": (task(Network(torch.tanh)), True),
    "dropout": (task(Network(dropout=0.5)), False),
}
"""Tasks, and whether what is measured without training differs too."""


@pytest.mark.parametrize("other", OTHERS)
def test_equal_weights_and_data_share_nothing_where_the_task_differs(other: str) -> None:
    made, differs = OTHERS[other]
    one, again, two = opened(task(Network())), opened(task(Network())), opened(made)
    names = ("weights", "data")
    assert [one.setup.fingerprints[name] for name in names] == [two.setup.fingerprints[name] for name in names]
    policy = one.setup.space.policy([0] * len(one.setup.space.dimensions))
    savings = [context.evaluator._saving((policy,)) for context in (one, again, two)]
    paths = [saving.path for saving in savings if saving]
    assert paths[0] == paths[1] != paths[2]
    assert one.sensitivity.key == again.sensitivity.key
    assert (one.sensitivity.key != two.sensitivity.key) is differs
