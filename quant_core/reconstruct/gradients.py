"""The squared gradients of the loss at the output of every block: the diagonal of the Fisher information (BRECQ, equation 10)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from quant_core.network.blocks import BlockRunner
from quant_core.reconstruct.held import Held, Room
from quant_core.util import rng

Direction = Callable[[Tensor, torch.Generator], Tensor]
DRAWS = 2


def squared_gradients(runner: BlockRunner, parts: Sequence[Any], direction: Direction, seed: int, room: Room) -> list[Held]:
    """Return per block the squared gradients at its outputs, of every part, in bfloat16.

    At the network's outputs the gradient is a random v whose E[v v'] is the curvature of the divergence from them, so that the expected
    squares are the Fisher information's diagonal; they are the mean of `DRAWS` draws. That takes two forward passes and a backward one
    per draw; the graph of one block at a time is held, and the outputs of all blocks of one part.

    Args:
        runner: of the network in float.
        parts: model inputs.
        direction: outputs, generator -> v.
        seed: of the draws.
        room: takes the squares.
    """
    generator = rng.generator(seed)
    held = [Held(room) for _ in runner.blocks]
    for inputs in parts:
        draws = [_gradients(runner, inputs, direction, generator) for _ in range(DRAWS)]
        for squares, *gradients in zip(reversed(held), *draws, strict=True):
            squares.add(torch.stack(gradients).square_().mean(dim=0).to(torch.bfloat16))
    return held


def _gradients(runner: BlockRunner, inputs: Any, direction: Direction, generator: torch.Generator) -> list[Tensor]:
    """Return the gradients at the outputs of all blocks for one part, the last block's first."""
    before: list[Tensor] = []
    with torch.no_grad():
        for block in runner.blocks:
            before.append(runner.run(block, inputs, before[-1] if before else None))
    gradients = [direction(before.pop(), generator)]
    for block in reversed(runner.blocks[1:]):
        source = before.pop().detach().requires_grad_()
        with torch.enable_grad():
            runner.run(block, inputs, source).backward(gradients[-1])  # type: ignore[no-untyped-call]
        gradients.append(torch.zeros_like(source) if source.grad is None else source.grad)
    return gradients
