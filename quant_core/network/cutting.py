"""Batches cut into parts, so that the activations of one forward pass fit the cache of the processor and the memory that is allowed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from quant_core.network.forward import Examples, call, examples_of, rows_mapped, rows_of
from quant_core.network.outputs import judged_output


@dataclass(frozen=True)
class Part:
    """Some examples of a batch.

    Attributes:
        inputs: of these examples.
        first: the number of the first one in its batch.
        count: how many.
        total: of the batch.
    """

    inputs: Any
    first: int
    count: int
    total: int


def parts(inputs: Any, size: int) -> Iterator[Part]:
    """Yield a batch in alike parts of about `size` examples (0: whole), in order; whole where a tensor of it has no row per example."""
    count = examples_of(inputs)
    size = -(-count // max(1, round(count / size))) if size else 0
    if not size or count <= size or not divisible(inputs):
        yield Part(inputs, 0, count, count)
        return
    for first in range(0, count, size):
        yield Part(rows(inputs, first, size), first, min(size, count - first), count)


def cut(batches: Sequence[Any], size: int) -> list[Any]:
    """Return batches cut into chunks of at most `size` examples; a batch is kept whole where a tensor of it has no row per example."""
    chunks: list[Any] = []
    for inputs in batches:
        count = examples_of(inputs)
        chunks += [inputs] if count <= size or not divisible(inputs) else [rows(inputs, first, size) for first in range(0, count, size)]
    return chunks


def rows(inputs: Any, first: int, size: int) -> Any:
    """Return `size` examples of a batch from `first` on."""
    cut_there = slice(first, first + size)
    return rows_mapped(lambda part: Examples(part[cut_there]) if isinstance(part, Examples) else part[cut_there], inputs)


def divisible(inputs: Any) -> bool:
    """Tell whether every tensor of a batch has a row per example."""
    count, parts_there = examples_of(inputs), rows_of(inputs)
    scalars = any(isinstance(leaf, Tensor) and not leaf.dim() for leaf in tree_leaves(inputs))
    return not scalars and all(len(part) == count for part in parts_there)


def call_in_parts(model: nn.Module, inputs: Any, size: int) -> Any:
    """Run `model` on one batch in parts of about `size` examples (0: whole) and return all that it returns, joined again."""
    outputs = [call(model, part.inputs) for part in parts(inputs, size)]
    return outputs[0] if len(outputs) == 1 else _joined(outputs)


def forward_in_parts(model: nn.Module, inputs: Any, size: int) -> Tensor:
    """Run `model` on one batch in parts and return the output that is judged, joined again.

    Raises:
        BitfrontError: there is none.
    """
    return judged_output(model, call_in_parts(model, inputs, size))


def _joined(outputs: Sequence[Any]) -> Any:
    """Return the outputs of parts as those of their batch.

    Raises:
        ValueError: they hold something without a row per example.
    """
    flat, shapes = zip(*(tree_flatten(output) for output in outputs), strict=True)
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError("the network's outputs have another structure for another number of examples")
    return tree_unflatten([_one(leaves) for leaves in zip(*flat, strict=True)], shapes[0])


def _one(leaves: Sequence[Any]) -> Any:
    if all(isinstance(leaf, Tensor) and leaf.dim() for leaf in leaves):
        return torch.cat(list(leaves))
    if all(leaf is None for leaf in leaves):
        return None
    raise ValueError("the network returns something that has no row per example")
