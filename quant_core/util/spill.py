"""Tensors on disk, for what memory shall not hold: one temporary file without a name, read and written through short-lived mappings."""

import math
import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quant_core.util.errors import BitfrontWarning

_ALIGNED = 64
_PIECE = 2**24


class SpillWarning(BitfrontWarning):
    """The disk of temporary files takes no more; the message says what that costs."""


@dataclass(frozen=True, slots=True)
class Spilled:
    """A tensor in a `SpillFile`: where it lies, its shape and type, and the device that it came from."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return math.prod(self.shape) * self.dtype.itemsize


class SpillFile:
    """A growing file in the folder of temporary files (`TMPDIR`), readable by this process alone.

    It has no name where the platform allows that, so it is gone when the object is, or the process ends in any way. Its pages are the
    operating system's to write back and to take again. A pickled copy carries all bytes and writes a file of its own.
    """

    def __init__(self) -> None:
        self._file: Any = None
        self.nbytes = 0

    def reserve(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | None = None) -> Spilled:
        """Return room for a tensor; it holds zeros.

        Raises:
            OSError: the disk is full, or there is none. Nothing is taken then.
        """
        place = Spilled(self.nbytes, shape, dtype, device or torch.device("cpu"))
        end = place.offset + -(-place.nbytes // _ALIGNED) * _ALIGNED
        if end > place.offset:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="bitfront-", buffering=0)  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            _allocate(self._file, place.offset, end)
        self.nbytes = end
        return place

    def write(self, tensor: Tensor) -> Spilled:
        """Keep a copy of `tensor`.

        Raises:
            OSError: as `reserve`.
        """
        place = self.reserve(tuple(tensor.shape), tensor.dtype, tensor.device)
        with self.mapped(place) as target:
            target.copy_(tensor)
        return place

    def read(self, place: Spilled) -> Tensor:
        """Return a copy in memory, on the device that the tensor came from."""
        with self.mapped(place) as source:
            return source.clone() if place.device.type == "cpu" else source.to(place.device)

    @contextmanager
    def mapped(self, place: Spilled) -> Iterator[Tensor]:
        """Yield the tensor itself, to be read and written within the block; its pages then leave the memory of the process."""
        if not place.nbytes:
            yield torch.zeros(place.shape, dtype=place.dtype)
        else:
            stored = np.memmap(self._file, np.uint8, "r+", place.offset, (place.nbytes,))
            yield torch.from_numpy(stored).view(place.dtype).reshape(place.shape)

    def __getstate__(self) -> dict[str, bytes]:
        if self._file is None:
            return {"data": b""}
        self._file.seek(0)
        return {"data": b"".join(iter(lambda: self._file.read(_PIECE), b""))}

    def __setstate__(self, state: dict[str, bytes]) -> None:
        SpillFile.__init__(self)
        if state["data"]:
            place = self.reserve((len(state["data"]),), torch.uint8)
            with self.mapped(place) as target:
                target.copy_(torch.frombuffer(bytearray(state["data"]), dtype=torch.uint8))


def _allocate(file: Any, start: int, end: int) -> None:
    """Take disk space now: writing to a mapping of a file with holes ends the process where the disk is full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), start, end - start)
        return
    file.seek(start)
    for first in range(start, end, _PIECE):
        file.write(bytes(min(_PIECE, end - first)))
