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
from quant_core.reconstruct.rounding import FixedWeight, SoftWeight
from quant_core.reconstruct.state import ReconstructedNetwork
from quant_core.util import rng

Tensors = Mapping[str, tuple[Tensor, Tensor | None]]
"""Layer -> weight, and bias or None."""
PULL, RISE, WARM_UP = 3.0, 100.0, 0.2
"""Weight of the regulariser beside the error relative to the start's, how many times as much it is at the end, and the share of the steps
before it sets in. It rises so that few steps decide the roundings too, and many first look for the best ones."""
APART, FEWEST = 4, 16
"""One part in so many is not learned from and judges; below so many parts all do both."""
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

    def measure(self) -> float:
        """Return the mean error over the parts that are not learned from (`judging`)."""
        parts = judging(len(self.wanted))
        with torch.no_grad():
            outputs = ((index, self.forward(index, None if self.quantized is None else self.quantized[index])) for index in parts)
            total = sum(float(self.error(index, output)) for index, output in outputs)
        return total / max(len(parts), 1)

    def first(self) -> Tensor:
        """Return the output of the first part."""
        return self.forward(0, None if self.quantized is None else self.quantized[0])

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
    drops, queue = Drops(config.drop, seed), Queue(learning(len(stretch.wanted)), seed)
    changes = {name: dropping(quantizer, drops) for name, quantizer in inputs.items()}
    optimizer = torch.optim.Adam(_groups(weights, inputs, config))
    parts = parts_per_step(stretch.wanted, config.batch)
    for step in range(config.steps):
        for group in optimizer.param_groups[1:]:
            group["lr"] = config.step_lr * falling(step / config.steps)
        soft, leaves = with_leaves(weights)
        for index in queue.take(parts):
            with network.learning(leaves, changes):
                output = stretch.forward(index, stretch.mixed(index, drops))
            (stretch.error(index, output) / (scale * parts)).backward()  # type: ignore[no-untyped-call]
        pass_on(soft, leaves, _pull(weights, step / config.steps))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def deviations(forward: Callable[[], object], network: ReconstructedNetwork, names: Sequence[str]) -> dict[str, float]:
    """Return the standard deviation of the outputs of layers while `forward` runs: the unit of their biases."""
    units: dict[str, float] = {}

    def watch(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _args: object, output: Tensor) -> None:
            units[name] = float(output.float().std(correction=0))

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name in names:
            stack.callback(network.modules[name].register_forward_hook(watch(name)).remove)
        forward()
    return units


def judging(count: int) -> range:
    """Return the numbers of the parts that judge what was learned, of `count`: every fourth; all where there are fewer than `FEWEST`."""
    return range(APART - 1, count, APART) if count >= FEWEST else range(count)


def learning(count: int) -> list[int]:
    """Return the numbers of the parts that are learned from: those that do not judge; all where there are fewer than `FEWEST`."""
    return [index for index in range(count) if index not in judging(count)] if count >= FEWEST else list(range(count))


class Queue:
    """Numbers of parts in a random order, over and over."""

    def __init__(self, parts: Sequence[int], seed: int) -> None:
        self._parts, self._generator = parts, rng.generator(seed)
        self._left: list[int] = []

    def take(self, count: int) -> list[int]:
        """Return the next numbers."""
        while len(self._left) < count:
            self._left += [self._parts[place] for place in torch.randperm(len(self._parts), generator=self._generator).tolist()]
        taken, self._left = self._left[:count], self._left[count:]
        return taken


def parts_per_step(wanted: Held, batch: int) -> int:
    """Return how many parts a step takes: as many as give `VALUES` outputs, of at most `batch` examples, of at most all parts."""
    first = wanted[0]
    enough = -(-VALUES // max(first.numel(), 1))
    return max(1, min(enough, batch // PART, len(learning(len(wanted)))))


def _groups(weights: Mapping[str, SoftWeight], inputs: Mapping[str, LearnedInput], config: ReconstructConfig) -> list[dict[str, object]]:
    others = [tensor for weight in weights.values() for tensor in weight.others()]
    others += [quantizer.factor for quantizer in inputs.values() if quantizer.factor is not None]
    groups: list[dict[str, object]] = [{"params": [weight.v for weight in weights.values()], "lr": config.lr}]
    return groups + ([{"params": others, "lr": config.step_lr}] if others else [])


def dropping(quantizer: LearnedInput, drops: Drops) -> Callable[[Tensor], Tensor]:
    """Return the quantizer of a layer's input, which leaves some values as they are."""
    return lambda x: quantizer(x, drops)


def falling(progress: float) -> float:
    """Return the factor of a rate that falls from 1 to 0 as half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def with_leaves(weights: Mapping[str, SoftWeight | FixedWeight]) -> tuple[Tensors, Tensors]:
    """Return layer -> its weight and bias now, and the same as leaves, which gather the gradients of a step (`pass_on`)."""
    soft = {name: (weight.values(), weight.bias()) for name, weight in weights.items()}
    return soft, {name: (leaf(value), None if bias is None else leaf(bias)) for name, (value, bias) in soft.items()}


def leaf(tensor: Tensor) -> Tensor:
    """Return a tensor of the same values that gathers a gradient."""
    return tensor.detach().requires_grad_()


def _pull(weights: Mapping[str, SoftWeight], progress: float) -> Tensor | None:
    """Return the regulariser (AdaRound, equation 24), the mean over all weights that have a choice; beta falls from 20 to 2."""
    if progress < WARM_UP:
        return None
    passed = (progress - WARM_UP) / (1 - WARM_UP)
    beta = 2 + 9 * (1 + math.cos(math.pi * passed))
    pulls = [weight.pull(beta) for weight in weights.values()]
    strength: float = PULL * RISE**passed
    return strength * torch.stack([total for total, _ in pulls]).sum() / max(sum(count for _, count in pulls), 1)


def pass_on(soft: Tensors, leaves: Tensors, pull: Tensor | None) -> None:
    """Pass the gradients of weights and biases, summed over the parts of a step, on to what they are made of."""
    roots: list[Tensor] = [] if pull is None else [pull]
    gradients: list[Tensor | None] = [None] * len(roots)
    for name, tensors in soft.items():
        for tensor, leaf in zip(tensors, leaves[name], strict=True):
            if tensor is not None and leaf is not None and leaf.grad is not None and tensor.requires_grad:
                roots.append(tensor)
                gradients.append(leaf.grad)
    torch.autograd.backward(roots, gradients)
