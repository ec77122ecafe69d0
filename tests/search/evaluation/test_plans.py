"""Whole plans decide between tables of sensitivities, and are measured only where the tables disagree."""

import numpy as np
import pytest
import torch
from torch import nn

from quant_core.network.cutting import cut
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.quant_spec import parse
from search.evaluation.adaptive import _costs
from search.evaluation.divergence import Reference
from search.evaluation.plans import SHARES, _gain, best_table, divergences, plans
from spaces import rules

FORMATS = {
    "weight": tuple(parse(f"int{bits}:channel:minmax") for bits in (2, 4, 8)),
    "activation": tuple(parse(f"int{bits}:tensor:minmax") for bits in (4, 8)),
}


def test_the_table_whose_plans_stay_near_is_taken() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    inputs = [torch.randn(32, 6)]
    layers = trace(model, inputs[0])
    engine = PostTraining(model, layers, inputs, inputs[0], scale_correction=False)
    space = rules.full(layers, FORMATS)
    reference = Reference(inputs, [model(inputs[0]).detach()], 1)
    costs, passes = _costs(engine, space), []
    good = [1.0 / (1.0 + cost - cost.min()) for cost in costs]
    bad = [row[::-1] for row in good]
    for answers in plans(space, (good, good), costs, len(SHARES)):
        for values in answers:
            assert all(values[d] == 1 for d, dimension in enumerate(space.dimensions) if dimension.slot == "activation")
    taken = best_table(engine, space, reference, (bad, good), costs, 4, passes.append)
    assert taken is good
    assert 2 <= len(passes) <= 8
    assert best_table(engine, space, reference, (good, bad), costs, 4, passes.append) is good
    passes.clear()
    assert best_table(engine, space, reference, (good, good), costs, 4, passes.append) is good
    assert not passes


def test_the_first_table_stands_where_the_other_is_better_by_chance_only() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(1.0, 2.0, size=8)
    better, noisy = first * 0.9, first * np.array([0.2, 1.6] * 4) * 0.99
    assert _gain([np.stack([first, better])]) == pytest.approx(np.log(0.9))
    assert _gain([np.stack([first, noisy])]) == 0.0
    assert _gain([np.stack([first, better]), np.stack([first, 0.5 * first]), np.stack([first, 1.1 * first])]) == 0.0  # one is worse
    assert _gain([np.stack([first, 1.1 * first])]) == 0.0
    assert _gain([np.stack([first, better])[:, :1]]) == 0.0  # one part tells no noise
    assert _gain([]) == 0.0


def test_divergences_of_parts_sum_to_the_whole() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4)).eval()
    inputs = [torch.randn(40, 6), torch.randn(3, 6)]
    layers = trace(model, inputs[0])
    engine, space = PostTraining(model, layers, inputs, inputs[0]), rules.full(layers, FORMATS)
    reference = Reference(inputs, [model(x).detach() for x in inputs], 1)
    values = (0,) * len(space.dimensions)
    parts = divergences(engine, space, values, reference)
    changed = engine.apply(space.policy(values))
    whole = sum(reference.compare(changed(x).detach(), y)[0] for x, y in zip(inputs, reference.outputs, strict=True))
    assert len(parts) == 4
    assert float(parts.sum()) == pytest.approx(whole, rel=1e-5)


def test_batches_are_cut_by_examples_and_odd_ones_kept_whole() -> None:
    odd = {"x": torch.zeros(10, 2), "mask": torch.zeros(1, 2)}
    assert [len(chunk) for chunk in cut([torch.zeros(10, 2), torch.zeros(3, 2)], 4)] == [4, 4, 2, 3]
    assert cut([odd], 4) == [odd]
    pair = cut([(torch.arange(6), torch.arange(6))], 4)
    assert [chunk[1].tolist() for chunk in pair] == [[0, 1, 2, 3], [4, 5]]
