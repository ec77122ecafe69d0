"""Seeded, checked subsets and the whole numbers that options are."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from quant_core.util.errors import InputError

T = TypeVar("T")
SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev"),
    "test": ("test",),
}
"""The names that files and folders of splits have."""


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


def divide(
    parts: Mapping[str, Sequence[T]], calib: int, place: str, noun: str, valid_size: int | None = None
) -> tuple[Sequence[T], Sequence[T], Sequence[T]]:
    """Return train (calibration begins there), valid and test.

    Args:
        parts: split -> its examples in order; "" for examples that are not split: first `calib`, then validation, then test, half each
            (all for validation where there is a test part).
        calib: examples of calibration that are taken where there is no train part.
        place, noun: for messages.
        valid_size: examples of validation that are taken of examples that are not split, where it is not half.

    Raises:
        InputError: too few examples.
    """
    train, valid, test = (parts.get(split) for split in ("train", "valid", "test"))
    if valid is None:
        examples = parts[""]
        rest, needed = len(examples) - calib, (1 if test is None else 0) + (valid_size or 1)
        if rest < needed:
            taken = f"calib_size = {calib}" + (f" and valid_size = {valid_size}" if valid_size else "")
            splits = " and ".join([*([] if valid_size and rest >= valid_size else ["valid"]), *(["test"] if test is None else [])])
            verb = "leave" if valid_size else "leaves"
            raise InputError(f"{place} has {len(examples)} {noun}; {taken} {verb} none for {splits}.")
        middle = calib + (valid_size or (rest if test is not None else (rest + 1) // 2))
        return examples[:calib], examples[calib:middle], examples[middle:] if test is None else test
    if test is None:
        half = (len(valid) + 1) // 2
        valid, test = valid[:half], valid[half:]
    return (valid[:calib], valid[calib:], test) if train is None else (train, valid, test)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
