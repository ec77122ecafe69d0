"""The axes of a network's inputs whose sizes differ between batches: lengths of texts, heights and widths of images."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from quant_core.network.forward import first_example

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


def other_lengths(example: Any, run: Callable[[Any], Tensor]) -> tuple[Any, ...]:
    """Return a sequence of tokens cut to its half, and repeated, where the network takes it so; nothing where there are no sequences.

    Args:
        example: one batch. Sequences are whole numbers [N, T] for which the network gives outputs [N, T, ...]; all tensors that begin
            with these axes are cut and repeated with them.
        run: gives the outputs of the network for a batch.
    """
    first = first_example(example)
    with torch.inference_mode():
        shape = run(first).shape
        tensors = [leaf for leaf in tree_leaves(first) if isinstance(leaf, Tensor)]
        if len(shape) < 3 or not any(leaf.shape == shape[:2] and not leaf.is_floating_point() for leaf in tensors):
            return ()
        half, twice = shape[1] // 2, 2 * shape[1]
        shorter = _changed(first, shape, lambda leaf: leaf[:, :half])
        longer = _changed(first, shape, lambda leaf: torch.cat([leaf, leaf], dim=1))
        pairs = ((half, shorter), (twice, longer))
        return tuple(other for length, other in pairs if length and _takes(run, other, torch.Size((shape[0], length, *shape[2:]))))


def _changed(batch: Any, shape: torch.Size, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a batch with the tensors changed that begin with the first two axes of `shape`."""
    return tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) and leaf.shape[:2] == shape[:2] else leaf, batch)


def _takes(run: Callable[[Any], Tensor], batch: Any, shape: torch.Size) -> bool:
    """Tell whether outputs of `shape` come of a batch."""
    try:
        return run(batch).shape == shape
    except Exception:  # the network holds its length as a constant: anything may come of that
        return False
