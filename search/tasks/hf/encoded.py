"""Batches that are made from rows when they are asked for."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Encoded:
    """Batches of `size` rows; never more than one is in memory. Re-iterable.

    Attributes:
        rows: the examples as they were read.
        size: rows per batch.
        encode: rows -> a batch: a mapping of tensors with `labels`.
    """

    rows: Sequence[Any]
    size: int
    encode: Callable[[Sequence[Any]], dict[str, Any]]

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil(len(self.rows) / self.size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield mappings of tensors."""
        for start in range(0, len(self.rows), self.size):
            yield self.encode(self.rows[start : start + self.size])
