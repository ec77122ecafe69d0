"""Whole plans decide between tables of sensitivities, and are measured only where the tables disagree."""

import numpy as np
import torch
from torch import nn

from quant_core.network.cutting import cut
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.quant_spec import parse
from search.evaluation.adaptive import _costs
from search.evaluation.divergence import Reference
from search.evaluation.plans import SHARES, best_table, divergence, plans
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
    bad = [row * (100.0 if d == 0 else 1.0) for d, row in enumerate(good)]
    for answers in plans(space, (good, bad), costs, len(SHARES)):
        for values in answers:
            assert all(values[d] == 1 for d, dimension in enumerate(space.dimensions) if dimension.slot == "activation")
    taken = best_table(engine, space, reference, (bad, good), costs, 4, passes.append)
    losses = [[np.log(divergence(engine, space, v, reference)) for v in answers] for answers in plans(space, (bad, good), costs, 4)]
    assert taken is (bad, good)[int(np.sum(losses, axis=0).argmin())]
    assert 2 <= len(passes) <= 8
    passes.clear()
    assert best_table(engine, space, reference, (good, good), costs, 4, passes.append) is good
    assert not passes


def test_batches_are_cut_by_examples_and_odd_ones_kept_whole() -> None:
    odd = {"x": torch.zeros(10, 2), "mask": torch.zeros(1, 2)}
    assert [len(chunk) for chunk in cut([torch.zeros(10, 2), torch.zeros(3, 2)], 4)] == [4, 4, 2, 3]
    assert cut([odd], 4) == [odd]
    pair = cut([(torch.arange(6), torch.arange(6))], 4)
    assert [chunk[1].tolist() for chunk in pair] == [[0, 1, 2, 3], [4, 5]]
