"""The comparison of an exported network with the simulation, where the outputs are no classes."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from quant_core.export.stored import post_training
from quant_core.network.forward import forward
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.util.errors import BitfrontError
from search.exporters.verify import compare, require_close
from search.tasks.task import Task


def test_single_values_have_no_top_answer_and_are_compared_by_their_difference() -> None:
    network = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    batches = [(torch.randn(4, 3), torch.randn(4))]
    task = Task(network, batches, batches, batches, batches, score=lambda outputs, targets: (outputs > targets).float())
    evaluate = SimpleNamespace(evaluate=SimpleNamespace(test=0))
    bundle: Any = SimpleNamespace(network=SimpleNamespace(simulation=network), task=task, experiment=evaluate)
    comparison = compare(bundle, lambda inputs: network(inputs) + 0.25)
    assert (comparison.top1_agreement, comparison.count) == (1.0, 4)
    assert comparison.difference == pytest.approx(0.25, abs=1e-6)


class Noisy(nn.Module):
    """Dropout that eval mode leaves on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


def test_noise_is_alike_in_both_runs() -> None:
    network = nn.Sequential(nn.Linear(3, 8), Noisy(), nn.Linear(8, 4)).eval()
    batches = [(torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)) for _ in range(2)]
    task = Task(network, batches, batches, batches, batches)
    evaluate = SimpleNamespace(evaluate=SimpleNamespace(test=0))
    bundle: Any = SimpleNamespace(network=SimpleNamespace(simulation=network), task=task, experiment=evaluate)
    again = copy.deepcopy(network)
    assert compare(bundle, lambda inputs: forward(again, inputs)).difference == 0


def deep(activation: str, dtype: torch.dtype) -> Any:
    """Return the bundle of a network of many layers: an input that takes the other code moves further ones."""
    torch.manual_seed(0)
    model = nn.Sequential(*(layer for _ in range(12) for layer in (nn.Linear(64, 64), nn.Tanh())), nn.Linear(64, 50)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    model, x = model.to(dtype), torch.randn(512, 64).to(dtype)
    layers = trace(model, x)
    policy = Policy({layer.name: parse_layer_policy(f"weight=int8:channel,activation={activation}") for layer in layers})
    network = post_training(PostTraining(model, layers, [x], x), model, layers, policy, x)
    batches = [(x, torch.zeros(512, dtype=torch.int64))]
    task = Task(model, batches, batches, batches, batches)
    return SimpleNamespace(network=network, task=task, experiment=SimpleNamespace(evaluate=SimpleNamespace(test=0)))


def test_differences_that_rounding_makes_in_the_network_itself_are_no_error() -> None:
    made = deep("int8:tensor", torch.float16)
    model = copy.deepcopy(made.network.simulation).float()
    comparison = compare(made, lambda inputs: forward(model, inputs.float()))
    assert not comparison.close(made.network.stored)
    allowed = require_close(made, comparison, "the runtime")
    assert allowed.rounding is not None
    assert allowed.checks["top1_agreement_in_float64"] == allowed.rounding.top1_agreement < 0.99


@pytest.mark.parametrize(
    ("activation", "dtype", "factor"),
    [
        ("int8:tensor", torch.float32, 1.01),
        ("float", torch.float32, 1.01),
        ("float", torch.float16, 1.05),
        ("int8:tensor", torch.float16, -1.0),
    ],
)
def test_an_error_in_one_layer_is_refused(activation: str, dtype: torch.dtype, factor: float) -> None:
    made = deep(activation, dtype)
    model = copy.deepcopy(made.network.simulation)
    with torch.no_grad():
        model.get_submodule("12").get_parameter("weight").mul_(factor)
    comparison = compare(made, lambda inputs: forward(model, inputs))
    with pytest.raises(BitfrontError, match=r"the runtime does not give .* \(computed in float64: .*%, .*\)\. Nothing was written"):
        require_close(made, comparison, "the runtime")
