"""How many examples of a batch a network runs at once: measured bytes of activations, and whether it treats examples apart."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from quant_core.network.cutting import call_in_parts, divisible
from quant_core.network.forward import call, examples_of, first_example, first_examples, placed_inputs
from quant_core.network.lives import run_first
from quant_core.util.errors import BitfrontError
from quant_core.util.rng import repeatable

PART_BYTES = 48 * 2**20
"""Activations of one forward pass, at their largest moment, beyond which a batch is cut. On one thread torch multiplies 1 x 1 convolutions
of fewer than 16 examples by a slower path: EfficientNet-Lite0 at 224 x 224 then takes a quarter longer, in a third of the memory."""
CHECKED = 4
"""Examples on which parts are compared with the whole."""


def part_size(model: nn.Module, inputs: Any, part_bytes: int = PART_BYTES) -> int:
    """Return how many examples of a batch run at once: 0, the whole batch, where they fit, or parts may give other outputs.

    The bytes of one example are measured: what is alive at the largest moment of its forward pass. Whether a network treats examples apart
    is tried on `CHECKED` of them, whole and in halves; noise, outputs without a row per example, and sums over the batch all show there.

    Args:
        model: float, in eval mode.
        inputs: one batch.
        part_bytes: what the activations of one pass may take.
    """
    count = examples_of(inputs)
    if count <= 1 or not divisible(inputs):
        return 0
    try:
        one = max(1, activation_bytes(model, inputs))
    except BitfrontError:  # one example alone is not what the network takes
        return 0
    size = max(1, part_bytes // one)
    return size if size < count and _apart(model, first_examples(inputs, CHECKED)) else 0


def activation_bytes(model: nn.Module, inputs: Any) -> int:
    """Return the bytes of float32 activations alive at the largest moment of the first example's forward pass."""
    example = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, first_example(inputs))  # of a storage of its own
    return 4 * run_first(model, {}, placed_inputs(model, example))[1].most_alive()


def _apart(model: nn.Module, inputs: Any) -> bool:
    """Tell whether halves of a batch give what the whole batch gives."""
    try:
        with torch.inference_mode(), repeatable():
            whole = call(model, inputs)
            joined = call_in_parts(model, inputs, max(1, examples_of(inputs) // 2))
    except (BitfrontError, RuntimeError, TypeError, ValueError, IndexError):  # the network wants whole batches, or outputs are not joined
        return False
    pairs = list(zip(_tensors(joined), _tensors(whole), strict=True))
    return bool(pairs) and all(_alike(one, other) for one, other in pairs)


def _alike(one: Tensor, other: Tensor) -> bool:
    if not other.is_floating_point():
        return torch.equal(one, other)
    rounding = 1e-4 if other.dtype in (torch.float32, torch.float64) else 2e-2
    scale = float(other.abs().amax()) if other.numel() else 0.0
    return one.shape == other.shape and torch.allclose(one, other, rtol=0.0, atol=rounding * scale, equal_nan=True)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
