"""Seeded, checked subsets and the whole numbers that options are."""

import torch
from torch import Tensor

from quant_core.util.errors import InputError


def permutation(n: int, seed: int) -> Tensor:
    """Return a permutation of 0..n-1, [n], by seed alone."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def take(option: str, size: int | None, most: int) -> int:
    """Return the number of examples to take of a split that has `most`; None takes all.

    Raises:
        InputError: the size is not in 1..most.
    """
    if size is None:
        return most
    if not _is_whole(size) or not 1 <= size <= most:
        raise InputError(f"{option} = {size!r}: give a whole number from 1 to {most}, or leave it out for all {most}.")
    return size


def whole(option: str, value: int, least: int) -> int:
    """Return a whole number of at least `least`.

    Raises:
        InputError: it is another thing, or smaller.
    """
    if not _is_whole(value) or value < least:
        raise InputError(f"{option} = {value!r}: give a whole number of at least {least}.")
    return value


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
