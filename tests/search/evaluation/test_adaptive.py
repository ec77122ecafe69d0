"""Sensitivities within a number of passes: exact where that is cheap, linear in layers, true where gradients are not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import search.evaluation.adaptive
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.quant_spec import parse
from search.evaluation.adaptive import DRAWS, FEW, FULL, NoGradientError, Spent, adaptive, estimated, exact
from search.evaluation.divergence import Reference
from search.evaluation.one_out import LEAST, OneOut
from search.evaluation.plans import SHARES
from spaces import rules
from spaces.space import Space

FORMATS = {
    "weight": tuple(parse(f"int{bits}:channel:minmax") for bits in (2, 3, 4, 8)),
    "activation": tuple(parse(f"int{bits}:tensor:minmax") for bits in (4, 6, 8)),
}
Prepared = tuple[PostTraining, Space, Reference]


class Deep(nn.Module):
    """Residual linear layers."""

    def __init__(self, count: int, between: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(count))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + self.between(layer(x)) / len(self.layers) ** 0.5
        return x


def prepared(model: nn.Module, batches: int = 2, examples: int = 16) -> Prepared:
    inputs = [torch.randn(examples, 5) for _ in range(batches)]
    layers = trace(model.eval(), inputs[0])
    engine = PostTraining(model, layers, inputs, inputs[0], scale_correction=False)
    with torch.inference_mode():
        outputs = [engine.model(batch) for batch in inputs]
    return engine, rules.full(layers, FORMATS), Reference(inputs, outputs, 1)


def run(case: Prepared, passes: float) -> tuple[tuple[np.ndarray, ...], Spent]:
    spent = Spent()
    return adaptive(*case, passes, spent, lambda _done, _total: None), spent


def exactly(case: Prepared) -> tuple[tuple[np.ndarray, ...], Spent]:
    spent = Spent()
    return exact(*case, spent, lambda _done, _total: None), spent


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_few_choices_and_a_large_budget_are_measured_exactly() -> None:
    torch.manual_seed(0)
    few = prepared(Deep(FEW // 5))
    assert same(run(few, FULL)[0], exactly(few)[0])
    assert not same(run(few, 8.0)[0], exactly(few)[0]), "fewer passes are kept to"
    many = prepared(Deep(16))
    rises, spent = exactly(many)
    exhaustive, all_spent = run(many, 1.0 + spent.equivalents)
    assert same(exhaustive, rises)
    assert all_spent.backward_passes == 0
    assert not same(run(many, 15.0)[0], rises)


def test_the_cost_of_exact_ones_is_what_runs_behind_the_prefixes() -> None:
    torch.manual_seed(0)
    case = prepared(Deep(4), batches=3)
    spent = exactly(case)[1]
    shares = [max(LEAST, 1 - layer / 4) for layer in range(4) for _slot in range(2)]
    assert spent.equivalents == pytest.approx(1 + sum(share * count for share, count in zip(shares, (3, 2) * 4, strict=True)))
    assert OneOut(case[0], case[1], case[2].compare).shares(case[2].batches[0]) == pytest.approx(shares)


def test_what_is_measured_counts_beside_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search.evaluation.adaptive, "PLANNED", 0.0)
    monkeypatch.setattr(search.evaluation.adaptive, "best_table", lambda *given: given[3][1])  # the calibrated rises, unseen
    torch.manual_seed(0)
    case = prepared(Deep(20))
    rises, (mixed, spent) = exactly(case)[0], run(case, 25.0)
    assert 20.0 < spent.equivalents <= 25.0
    assert spent.backward_passes == 2 * DRAWS
    pairs = [(a, b) for row, other in zip(rises, mixed, strict=True) for a, b in zip(row, other, strict=True) if a > 0]
    assert np.corrcoef([np.argsort(np.argsort(column)) for column in zip(*pairs, strict=True)])[0, 1] > 0.9
    alone = estimated(*case, Spent()).rises
    far = [np.abs(np.log(np.maximum(np.concatenate(table), 1e-9) / np.maximum(np.concatenate(rises), 1e-9))) for table in (mixed, alone)]
    measured = far[0] != far[1]
    assert measured.sum() > 20
    assert np.median(far[0][measured]) < np.median(far[1][measured])


def test_the_work_grows_linearly_in_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    calls, linear = [0], torch.nn.functional.linear

    def counted(*arguments: Any) -> Tensor:
        calls[0] += 1
        return linear(*arguments)

    per_layer, costs = [], []
    for count in (25, 100, 300):
        case = prepared(Deep(count), batches=1, examples=8)
        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.functional, "linear", counted)
            calls[0] = 0
            _, spent = run(case, 14.0)
        per_layer.append(calls[0] / count)
        costs.append(spent.equivalents)
        assert spent.backward_passes == DRAWS
    assert max(costs) <= 14.0
    plans = 2 * len(SHARES)  # they are measured only where tables disagree
    assert max(per_layer[1:]) <= per_layer[0] + plans
    assert max(per_layer) <= 20


class Rounded(nn.Module):
    """Its gradient is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.head = Deep(14), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return (self.head(self.deep(x)) * 16).round()


def test_without_gradients_every_choice_is_measured_and_gradient_says_why() -> None:
    torch.manual_seed(0)
    case = prepared(Rounded())
    with pytest.warns(UserWarning, match="gives no gradients .*every gradient is zero.*Every choice is measured instead"):
        rises = run(case, 10.0)[0]
    assert same(rises, exactly(case)[0])
    with pytest.raises(NoGradientError, match=r"set evaluate.sensitivity = 'forward'"):
        estimated(*case, Spent())


class Half(nn.Module):
    """The first half of the layers gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Deep(7), Deep(9)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).detach())  # type: ignore[no-any-return]


def test_layers_behind_which_no_gradient_comes_are_measured() -> None:
    torch.manual_seed(0)
    case = prepared(Half())
    rises, mixed = exactly(case)[0], run(case, 20.0)[0]
    for dimension, row, other in zip(case[1].dimensions, rises, mixed, strict=True):
        if dimension.layers[0].startswith("first"):
            np.testing.assert_allclose(other, row, rtol=1e-6, atol=1e-12)


def test_examples_are_added_until_the_order_is_stable() -> None:
    torch.manual_seed(0)
    engine, space, reference = prepared(Deep(20), batches=1)
    repeated = Reference(reference.batches * 8, reference.outputs * 8, 1)
    single = Spent()
    adaptive(engine, space, reference, 25.0, single, lambda _done, _total: None)
    spent = Spent()
    rises = adaptive(engine, space, repeated, 25.0, spent, lambda _done, _total: None)
    assert spent.evaluations > single.evaluations  # two of eight equal batches settle the order: more choices can be measured
    assert spent.equivalents <= 25.0
    assert all(np.isfinite(row).all() for row in rises)


@pytest.mark.parametrize("passes", [3.0, 8.0, 16.0])
def test_gradients_take_at_most_half_of_the_passes(passes: float) -> None:
    torch.manual_seed(0)
    spent = run(prepared(Deep(16)), passes)[1]
    assert spent.equivalents <= passes
    assert spent.backward_passes > 0


def test_progress_ends_at_the_passes() -> None:
    torch.manual_seed(0)
    steps: list[tuple[int, int]] = []
    adaptive(*prepared(Deep(20)), 25.0, Spent(), lambda done, total: steps.append((done, total)))
    assert steps == sorted(steps)
    assert steps[-1] == (25, 25)
