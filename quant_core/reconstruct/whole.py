"""The last stage: scales, biases and input steps of all layers are learned together, for the outputs of the float network.

Codes stay. Blocks learn for their own output, on what the blocks before them give, so that what they leave of the error adds up;
few variables that see the network's outputs take some of it back (Chen et al., EfficientQAT, arXiv 2407.11062, section 3.3: scales).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quant_core.network.blocks import BlockRunner, WholeNetwork
from quant_core.reconstruct import ReconstructConfig
from quant_core.reconstruct.held import Held
from quant_core.reconstruct.inputs import Drops, LearnedInput
from quant_core.reconstruct.learn import Queue, Tensors, dropping, falling, judging, leaf, learning, parts_per_step, pass_on, with_leaves
from quant_core.reconstruct.rounding import FixedWeight
from quant_core.reconstruct.state import ReconstructedNetwork

LOOKS = 4
"""How often the distance is measured on the way, on the parts that judge."""
Distance = Callable[[Tensor, Tensor], Tensor]
"""(outputs, those of the float network) -> how far they are apart, a mean with a gradient."""


@dataclass(frozen=True, eq=False)
class Whole:
    """The network as one stretch.

    Attributes:
        runner: runs its blocks.
        parts: model inputs.
        wanted: the float network's outputs, of every part.
        distance: of outputs.
    """

    runner: BlockRunner | WholeNetwork
    parts: Sequence[Any]
    wanted: Held
    distance: Distance

    def outputs(self, index: int) -> Tensor:
        """Return the outputs of one part."""
        before: Tensor | None = None
        for block in self.runner.blocks:
            before = self.runner.run(block, self.parts[index], before)
        assert before is not None
        return before

    def measure(self) -> float:
        """Return the mean distance over the parts that are not learned from."""
        parts = judging(len(self.parts))
        with torch.no_grad():
            total = sum(float(self.distance(self.outputs(index), self.wanted[index])) for index in parts)
        return total / max(len(parts), 1)

    def backward(self, index: int, share: float) -> None:
        """Add the gradients of `share` times the distance of one part; the graph of one block at a time is held."""
        blocks, inputs = self.runner.blocks, self.parts[index]
        entering: list[Tensor | None] = [None]
        with torch.no_grad():
            for block in blocks[:-1]:
                entering.append(self.runner.run(block, inputs, entering[-1]))
        gradient: Tensor | None = None
        for block in reversed(blocks):
            before = entering.pop()
            source = None if before is None else leaf(before)
            output = self.runner.run(block, inputs, source)
            if block is blocks[-1]:
                output, gradient = share * self.distance(output, self.wanted[index]), torch.ones((), device=output.device)
            if gradient is not None and output.requires_grad:
                output.backward(gradient)  # type: ignore[no-untyped-call]
            gradient = None if source is None else source.grad


def finish(
    whole: Whole,
    weights: Mapping[str, FixedWeight],
    inputs: Mapping[str, LearnedInput],
    network: ReconstructedNetwork,
    config: ReconstructConfig,
) -> None:
    """Optimise `weights` and `inputs` by Adam for the distance of the outputs; they hold the nearest of `LOOKS` results on the way.

    Arguments as of `learn`. Layers that share a weight of `weights` compute with it too.
    """
    exact, queue = Drops(0.0, config.seed), Queue(learning(len(whole.parts)), config.seed)
    changes = {name: dropping(quantizer, exact) for name, quantizer in inputs.items()}
    variables = [tensor for weight in weights.values() for tensor in weight.others()]
    variables += [quantizer.factor for quantizer in inputs.values() if quantizer.factor is not None]
    optimizer = torch.optim.Adam(variables, lr=config.whole_lr)
    count, best, kept = parts_per_step(whole.wanted, config.batch), math.inf, [tensor.detach().clone() for tensor in variables]
    for step in range(config.whole):
        for group in optimizer.param_groups:
            group["lr"] = config.whole_lr * falling(step / config.whole)
        soft, leaves = with_leaves(weights)
        for index in queue.take(count):
            with network.learning(_everywhere(leaves, network), changes):
                whole.backward(index, 1 / count)
        pass_on(soft, leaves, None)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) * LOOKS // config.whole > step * LOOKS // config.whole:
            with network.learning(_everywhere(with_leaves(weights)[1], network), changes):
                reached = whole.measure()
            if reached < best:
                best, kept = reached, [tensor.detach().clone() for tensor in variables]
    for tensor, value in zip(variables, kept, strict=True):
        tensor.data.copy_(value)


def _everywhere(leaves: Tensors, network: ReconstructedNetwork) -> Tensors:
    """Return layer -> weight and bias, of layers too that share the weight of another one; these have no bias."""
    others = {name: (leaves[reader][0], None) for reader, names in network.shared.items() if reader in leaves for name in names}
    return {**leaves, **others}
