"""The comparison of an exported network with the simulation, where the outputs are no classes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from search.exporters.verify import compare
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
