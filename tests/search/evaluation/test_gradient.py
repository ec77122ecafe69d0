"""First-order effects of all choices from gradients: equal to the definition where the network is linear."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.quant_spec import parse
from search.evaluation.gradient import projection_passes, projections
from spaces import rules
from spaces.space import Dimension, Space

WEIGHTS = (parse("int2:channel"), parse("int8:channel"))
ACTIVATIONS = (parse("int3:tensor"), parse("int8:tensor"))


def prepared(model: nn.Module, inputs: Tensor) -> tuple[PostTraining, Space]:
    layers = trace(model.eval(), inputs)
    activations = () if isinstance(model[0], nn.Embedding) else ACTIVATIONS  # type: ignore[index]
    space = rules.full(layers, {"weight": WEIGHTS, "activation": activations or (parse("float"),)})
    return PostTraining(model, layers, [inputs], inputs), space


def effects(engine: PostTraining, space: Space, inputs: Tensor, v: Tensor) -> list[np.ndarray]:
    """Return per dimension [N, K_d] v' (outputs with one choice alone - float outputs), by running the network."""
    outputs = engine.restore()(inputs)
    columns = []
    for dimension in space.dimensions:
        rows = []
        for choice in dimension.choices:
            alone = Space(space.base, (Dimension(dimension.slot, dimension.layers, (choice,)),))
            base = {name: type(policy)() for name, policy in space.base.items()}
            moved = engine.apply(Space(type(space.base)(base), alone.dimensions).policy([0]))(inputs)
            rows.append((v * (moved - outputs)).flatten(1).sum(1).detach().numpy())
        columns.append(np.stack(rows, axis=1))
    engine.restore()
    return columns


class Flat(nn.Sequential):
    """A linear layer that sees the positions of all examples as one axis."""

    def forward(self, x: Tensor) -> Tensor:
        return self[0](x.flatten(0, 1)).reshape(*x.shape[:2], -1)  # type: ignore[no-any-return]


class Twice(nn.Sequential):
    """A layer that is called twice, side by side."""

    def forward(self, x: Tensor) -> Tensor:
        return self[0](x) - 0.5 * self[0](x.flip(1))  # type: ignore[no-any-return]


class Written(nn.Sequential):
    """The input is written into after the layer has read it."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        outputs = self[0](x)
        x.mul_(0)
        return outputs + x.sum()  # type: ignore[no-any-return]


CASES = {
    "linear": (nn.Sequential(nn.Linear(6, 3)), (7, 6)),
    "convolution": (nn.Sequential(nn.Conv2d(2, 3, 3)), (4, 2, 5, 5)),
    "flat": (Flat(nn.Linear(6, 3)), (4, 5, 6)),
    "twice": (Twice(nn.Linear(6, 3)), (7, 6)),
    "written": (Written(nn.Linear(6, 3)), (7, 6)),
}


@pytest.mark.parametrize("case", CASES)
def test_projections_of_a_linear_network_are_its_effects(case: str) -> None:
    torch.manual_seed(0)
    model, shape = CASES[case]
    inputs = torch.randn(shape)
    engine, space = prepared(model, inputs)
    drawn: list[Tensor] = []

    def direction(outputs: Tensor) -> Tensor:
        drawn.append(torch.randn(outputs.shape))
        return drawn[-1]

    rows = projections(engine, space, [inputs], direction, draws=2)
    wanted = [effects(engine, space, inputs, v) for v in drawn]
    for d, row in enumerate(rows):
        np.testing.assert_allclose(row, np.concatenate([effect[d] for effect in wanted]), atol=1e-5)
    assert all(np.abs(row).max() > 1e-3 for row in rows)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in engine.model.parameters())
    assert not model.training
    assert torch.equal(engine.model(inputs), engine.restore()(inputs))


def test_an_embedding_has_a_weight_and_no_input() -> None:
    torch.manual_seed(0)
    inputs = torch.randint(0, 9, (4, 5))
    engine, space = prepared(nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 3)), inputs)
    v = torch.randn(4, 5, 3)
    rows = projections(engine, space, [inputs[:2], inputs[2:]], lambda outputs: v[:2] if outputs is not v else v)
    wanted = effects(engine, space, inputs[:2], v[:2])
    np.testing.assert_allclose(rows[0][:2], wanted[0], atol=1e-5)


def test_the_cost_is_one_forward_pass_two_backward_and_a_layer_per_choice() -> None:
    engine, space = prepared(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), torch.randn(3, 6))
    assert projection_passes(engine, space, draws=2) == pytest.approx(1 + 2 + 1 + len(WEIGHTS))
