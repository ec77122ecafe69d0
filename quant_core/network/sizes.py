"""The axes of a network's inputs whose sizes differ between batches: lengths of texts, heights and widths of images."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

Axis = tuple[int, int]
"""The number of a tensor, and that of its axis."""


def axis_sizes(batch: Any) -> dict[Axis, int]:
    """Return the size of every axis of a batch's tensors but the first one, which counts its examples."""
    tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
    return {(number, axis): tensor.shape[axis] for number, tensor in enumerate(tensors) for axis in range(1, tensor.dim())}


def batches_of_other_sizes(example: Any, batches: Iterable[Any]) -> tuple[Any, ...]:
    """Return batches that show every axis whose size is not always that of `example`, as few as the order of reading gives.

    Batches with other tensors than those of `example` (another number of them, or of axes) are left out.
    """
    sizes = axis_sizes(example)
    shown: set[Axis] = set()
    others = []
    for batch in batches:
        there = axis_sizes(batch)
        differing = {axis for axis in sizes if there.get(axis, sizes[axis]) != sizes[axis]} if there.keys() == sizes.keys() else set()
        if differing - shown:
            shown |= differing
            others.append(batch)
    return tuple(others)


def varying_axes(example: Any, others: Sequence[Any]) -> dict[Axis, Axis]:
    """Return the axes whose sizes differ between `example` and `others`, in order; of those that always agree the first stands for all.

    >>> import torch
    >>> varying_axes([torch.zeros(4, 7), torch.zeros(4, 7, 3)], [[torch.zeros(4, 9), torch.zeros(4, 9, 3)]])
    {(0, 1): (0, 1), (1, 1): (0, 1)}
    """
    columns = [axis_sizes(batch) for batch in (example, *others)]
    first: dict[tuple[int, ...], Axis] = {}
    rows = {axis: tuple(column[axis] for column in columns) for axis in columns[0]}
    return {axis: first.setdefault(row, axis) for axis, row in rows.items() if len(set(row)) > 1}
