"""The optimisation of one block: its rounding variables, gains, biases and input steps, for its output."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quant_core.reconstruct import PART, ReconstructConfig
from quant_core.reconstruct.held import Held
from quant_core.reconstruct.inputs import Drops, LearnedInput
from quant_core.reconstruct.rounding import SoftWeight
from quant_core.reconstruct.state import ReconstructedNetwork
from quant_core.util import rng

PULL, WARM_UP = 3.0, 0.2
"""Weight of the regulariser beside the error relative to the start's, and the share of the steps before it sets in."""
VALUES = 2**17
"""Output values that a step sees at least, while it has examples left to take."""


@dataclass(frozen=True, eq=False)
class Stretch:
    """What one optimisation is about: a block, or a layer alone.

    Attributes:
        forward: (number of a part of the examples, its input) -> the output.
        exact, quantized: inputs in the float network, and under the quantized layers before; None where it reads the network's inputs.
        wanted: the float network's outputs.
        weights: of the squared errors, or None.
    """

    forward: Callable[[int, Tensor | None], Tensor]
    exact: Held | None
    quantized: Held | None
    wanted: Held
    weights: Held | None = None

    def error(self, index: int, output: Tensor) -> Tensor:
        """Return the mean squared error of an output; weighted by squared gradients where there are any (BRECQ, equation 10)."""
        squares = (output - self.wanted[index]).square()
        return (squares if self.weights is None else squares * self.weights[index]).mean()

    def measure(self, outputs: Held | None = None) -> float:
        """Return the mean error over all parts; the outputs go to `outputs`."""
        total = 0.0
        with torch.no_grad():
            for index in range(len(self.wanted)):
                output = self.forward(index, None if self.quantized is None else self.quantized[index])
                total += float(self.error(index, output))
                if outputs is not None:
                    outputs.add(output)
        return total / max(len(self.wanted), 1)

    def mixed(self, index: int, drops: Drops) -> Tensor | None:
        """Return an input, some values that of the float network (QDrop)."""
        if self.quantized is None or self.exact is None:
            return None
        return drops.mixed(self.quantized[index], self.exact[index])


def learn(
    stretch: Stretch,
    weights: Mapping[str, SoftWeight],
    inputs: Mapping[str, LearnedInput],
    network: ReconstructedNetwork,
    config: ReconstructConfig,
    seed: int,
    scale: float,
) -> None:
    """Optimise `weights` and `inputs` of a stretch by Adam; they hold the result, which is soft still.

    Args:
        stretch: the data.
        weights, inputs: layer -> what is learned of it.
        network: computes.
        config: how.
        seed: of the order of the parts and of what is left unquantized.
        scale: the error at the start.
    """
    drops, queue = Drops(config.drop, seed), _Queue(len(stretch.wanted), seed)
    changes = {name: _dropping(quantizer, drops) for name, quantizer in inputs.items()}
    optimizer = torch.optim.Adam(_groups(weights, inputs, config))
    parts = _parts_per_step(stretch, config.batch)
    for step in range(config.steps):
        for group in optimizer.param_groups[1:]:
            group["lr"] = config.step_lr * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        soft = {name: (weight.values(), weight.bias()) for name, weight in weights.items()}
        leaves = {name: (_leaf(value), None if bias is None else _leaf(bias)) for name, (value, bias) in soft.items()}
        for index in queue.take(parts):
            with network.learning(leaves, changes):
                output = stretch.forward(index, stretch.mixed(index, drops))
            (stretch.error(index, output) / (scale * parts)).backward()  # type: ignore[no-untyped-call]
        _pass_on(soft, leaves, _pull(weights, step / config.steps))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def deviations(stretch: Stretch, network: ReconstructedNetwork, names: Sequence[str]) -> dict[str, float]:
    """Return the standard deviation of the outputs of layers on the first part: the unit of their biases."""
    units: dict[str, float] = {}

    def watch(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _args: object, output: Tensor) -> None:
            units[name] = float(output.float().std(correction=0))

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name in names:
            stack.callback(network.modules[name].register_forward_hook(watch(name)).remove)
        stretch.forward(0, None if stretch.quantized is None else stretch.quantized[0])
    return units


class _Queue:
    """The numbers of all parts in a random order, over and over."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._generator = count, rng.generator(seed)
        self._left: list[int] = []

    def take(self, count: int) -> list[int]:
        """Return the next numbers."""
        while len(self._left) < count:
            self._left += torch.randperm(self._count, generator=self._generator).tolist()
        taken, self._left = self._left[:count], self._left[count:]
        return taken


def _parts_per_step(stretch: Stretch, batch: int) -> int:
    """Return how many parts a step takes: as many as give `VALUES` outputs, of at most `batch` examples, of at most all parts."""
    first = stretch.wanted[0]
    enough = -(-VALUES // max(first.numel(), 1))
    return max(1, min(enough, batch // PART, len(stretch.wanted)))


def _groups(weights: Mapping[str, SoftWeight], inputs: Mapping[str, LearnedInput], config: ReconstructConfig) -> list[dict[str, object]]:
    others = [tensor for weight in weights.values() for tensor in weight.others()]
    others += [quantizer.factor for quantizer in inputs.values() if quantizer.factor is not None]
    groups: list[dict[str, object]] = [{"params": [weight.v for weight in weights.values()], "lr": config.lr}]
    return groups + ([{"params": others, "lr": config.step_lr}] if others else [])


def _dropping(quantizer: LearnedInput, drops: Drops) -> Callable[[Tensor], Tensor]:
    return lambda x: quantizer(x, drops)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def _pull(weights: Mapping[str, SoftWeight], progress: float) -> Tensor | None:
    """Return the regulariser (AdaRound, equation 24), the mean over all weights that have a choice; beta falls from 20 to 2."""
    if progress < WARM_UP:
        return None
    beta = 2 + 9 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))
    pulls = [weight.pull(beta) for weight in weights.values()]
    return PULL * torch.stack([total for total, _ in pulls]).sum() / max(sum(count for _, count in pulls), 1)


def _pass_on(
    soft: Mapping[str, tuple[Tensor, Tensor | None]], leaves: Mapping[str, tuple[Tensor, Tensor | None]], pull: Tensor | None
) -> None:
    """Pass the gradients of weights and biases, summed over the parts of a step, on to what they are made of."""
    roots: list[Tensor] = [] if pull is None else [pull]
    gradients: list[Tensor | None] = [None] * len(roots)
    for name, tensors in soft.items():
        for tensor, leaf in zip(tensors, leaves[name], strict=True):
            if tensor is not None and leaf is not None and leaf.grad is not None and tensor.requires_grad:
                roots.append(tensor)
                gradients.append(leaf.grad)
    torch.autograd.backward(roots, gradients)
