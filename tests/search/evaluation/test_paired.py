"""Paired standard errors: against the sample formula, the binomial counts, and two networks that differ on known examples."""

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import nn

from quant_core.network.trace import trace
from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import parse
from search.config.evaluation import EvaluateSection
from search.evaluation.evaluator import Evaluator
from search.evaluation.paired import standard_error
from search.records.expected import ERROR
from search.tasks.task import Task


def test_the_error_is_that_of_the_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    differences = torch.rand(5000, generator=generator, dtype=torch.float64) - 0.4
    assert standard_error(differences) == pytest.approx(stats.sem(differences.numpy()), rel=2e-3)


def test_the_bound_covers_as_often_as_it_says() -> None:
    """Of 2,000 pairs of networks with 5 % losses and 3 % gains, about 90 % have a true drop below the bound."""
    generator = torch.Generator().manual_seed(1)
    covered = 0
    for _ in range(2000):
        draw = torch.rand(300, generator=generator, dtype=torch.float64)
        differences = (draw < 0.05).double() - (draw > 0.97).double()
        covered += float(differences.mean()) + 1.2815515655446004 * standard_error(differences) >= 0.02
    assert 0.88 <= covered / 2000 <= 0.95


def test_no_difference_is_not_certainty() -> None:
    assert standard_error(torch.zeros(98, dtype=torch.float64)) == pytest.approx(0.01)


@pytest.mark.parametrize("metrics", [(), "accuracy"])
def test_a_trial_has_the_paired_error(metrics: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The int2 network's answers beside the float network's, counted by hand; the float network runs once per split, not per policy."""
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval(), torch.randn(120, 8)
    targets = model(data).argmax(dim=1)
    targets[::7] = 0
    split = [(data[:70], targets[:70]), (data[70:], targets[70:])]
    task = Task(model, split, split, split, split, metrics=metrics)
    layers = trace(model, data[:1])
    evaluator = Evaluator(task, layers, EvaluateSection())
    policy = Policy({layer.name: LayerPolicy(parse("int2:tensor:mse"), parse("float")) for layer in layers})
    evaluator.float_metrics("valid")
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "float_metrics", None)
        result = evaluator(policy)
    assert result.ok, f"the float network was judged already: {result.reason}"
    right = model(data).argmax(dim=1) == targets
    quantized = evaluator.engine.apply(policy)(data).argmax(dim=1) == targets
    differences = right.double() - quantized.double()
    assert result.metrics[ERROR] == pytest.approx(standard_error(differences))
    assert differences.abs().sum() > 0
    assert math.isfinite(result.metrics[ERROR])


def test_a_metric_of_the_whole_set_has_none() -> None:
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(8, 1)).eval(), torch.randn(50, 8)
    split = [(data, model(data).detach())]
    task = Task(model, split, split, split, split, metrics="mae")
    layers = trace(model, data[:1])
    policy = Policy({layer.name: LayerPolicy(parse("int4:tensor:mse"), parse("float")) for layer in layers})
    assert ERROR not in Evaluator(replace(task), layers, EvaluateSection())(policy).metrics
