"""Tensors of one mini-batch after another: in memory up to a limit, else in a temporary file."""

from collections.abc import Iterator

from torch import Tensor

from quant_core.util.spill import Spilled, SpillFile


class Room:
    """Bytes of memory that several `Held` share.

    Attributes:
        left: bytes.
        least: the smallest `left` so far.
    """

    def __init__(self, limit: int) -> None:
        self.left = self.least = limit

    def take(self, count: int) -> bool:
        """Take bytes, where there are as many."""
        if count > self.left:
            return False
        self.left -= count
        self.least = min(self.least, self.left)
        return True


class Held:
    """Tensors in order. What the room has no place for goes to a file, which is gone when this object is."""

    def __init__(self, room: Room) -> None:
        self._room, self._file = room, SpillFile()
        self._items: list[Tensor | Spilled] = []

    def add(self, tensor: Tensor) -> None:
        """Keep `tensor`, which nobody writes to.

        Raises:
            OSError: it does not fit the memory, and the disk is full.
        """
        tensor = tensor.detach()
        self._items.append(tensor if self._room.take(tensor.nbytes) else self._file.write(tensor))

    def close(self) -> None:
        """Give back the memory; nothing is kept."""
        self._room.left += sum(item.nbytes for item in self._items if isinstance(item, Tensor))
        self._items, self._file = [], SpillFile()

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Tensor:
        item = self._items[index]
        return item if isinstance(item, Tensor) else self._file.read(item)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))
