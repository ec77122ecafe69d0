"""Seeded, checked subsets."""

import torch
from torch import Tensor

from quant_core.errors import InputError


def permutation(n: int, seed: int) -> Tensor:
    """Return a permutation of 0..n-1, [n], by seed alone."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def take(option: str, size: int | None, most: int) -> int:
    """Return how many examples to take of a split that has `most`; None takes all.

    Raises:
        InputError: the size is not in 1..most.
    """
    if size is None:
        return most
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= most:
        raise InputError(f"{option} = {size!r}: give a whole number from 1 to {most}, or leave it out for all {most}.")
    return size
