"""Squared gradients at block outputs against autograd through the whole network."""

import torch
from torch import Tensor, nn

from quant_core.network.blocks import BlockRunner
from quant_core.reconstruct.gradients import DRAWS, squared_gradients
from quant_core.reconstruct.held import Room
from quant_core.util import rng


def direction(outputs: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(outputs.shape, generator=generator)


def test_they_are_the_mean_squares_of_the_draws() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval().requires_grad_(False)
    parts = [torch.rand(4, 4), torch.rand(4, 4)]
    runner = BlockRunner(model, {name: model.get_submodule(name) for name in ("0", "2", "4")}, parts[0], 1)
    held = squared_gradients(runner, parts, direction, 7, Room(2**20))
    assert [len(squares) for squares in held] == [2, 2, 2]
    generator = rng.generator(7)
    for number, part in enumerate(parts):
        wanted = [0.0, 0.0, 0.0]
        for _ in range(DRAWS):
            first = model[1](model[0](part)).requires_grad_()
            second = model[3](model[2](first))
            output = model[4](second)
            v = direction(output, generator)
            gradients = torch.autograd.grad(output, [first, second], v)
            wanted = [total + g.square() / DRAWS for total, g in zip(wanted, (*gradients, v), strict=True)]
        for squares, expected in zip(held, wanted, strict=True):
            assert torch.allclose(squares[number].float(), expected, rtol=2e-2)
