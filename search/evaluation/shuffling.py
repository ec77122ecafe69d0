"""The training split as the loop takes it: by example in a new order every epoch; from memory where it fits, else through a buffer."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quant_core.util import rng
from search.config.evaluation import EvaluateSection
from search.tasks.reading import batch_bytes
from search.tasks.stream import Stream, split_of
from search.tasks.task import Batch, Task

SEEDS = 2**62


@dataclass(frozen=True, eq=False)
class ShuffledBatches:
    """Examples of tensors in batches of `size`, in a new order at every pass; a ragged last batch is left out.

    The order comes from torch's generator, which the training loop seeds for every epoch.
    """

    inputs: "Tensor | Rows"
    targets: "Tensor | Rows"
    size: int

    def __len__(self) -> int:
        """How many batches."""
        return max(len(self.inputs) // self.size, 1)

    def __iter__(self) -> Iterator[Batch]:
        """Yield (inputs [size, ...], targets [size, ...])."""
        for picked in torch.split(torch.randperm(len(self.inputs)), self.size)[: len(self)]:
            yield self.inputs[picked], self.targets[picked]


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of tensors, one after the other, without a copy of them in one piece."""

    parts: Sequence[Tensor]

    def __len__(self) -> int:
        """How many rows."""
        return sum(len(part) for part in self.parts)

    def __getitem__(self, picked: Tensor) -> Tensor:
        """Return the rows at positions: [n] -> [n, ...]."""
        ends = torch.tensor([len(part) for part in self.parts]).cumsum(0)
        numbers = torch.searchsorted(ends, picked, right=True)
        starts = ends[numbers] - torch.tensor([len(part) for part in self.parts])[numbers]
        rows = zip(numbers.tolist(), (picked - starts).tolist(), strict=True)
        return torch.stack([self.parts[number][row] for number, row in rows])


@dataclass(frozen=True, eq=False)
class StreamedBatches:
    """A training split that does not fit in memory: read at every pass, and shuffled through a buffer.

    The source is read with other random numbers at every pass, so that a loader that shuffles does so anew. What comes fills a buffer of
    `buffer_bytes`; half of a full one is given at random, then it is filled again. Where `size` is 0 batches are shuffled as they are, else
    examples, in batches of `size`; a ragged last batch is left out. The order comes from torch's generator, by one number per pass.
    """

    stream: Stream
    size: int
    buffer_bytes: int

    def __len__(self) -> int:
        """How many batches."""
        figures = self.stream.whole()
        return max(figures.examples // self.size, 1) if self.size else figures.batches

    def __iter__(self) -> Iterator[Batch]:
        """Yield (inputs, targets)."""
        generator = rng.generator(int(torch.randint(SEEDS, ())))
        buffer: list[Batch] = []
        size = 0
        for batch in self.stream.shuffled(int(torch.randint(SEEDS, (), generator=generator))):
            buffer.append(batch)
            size += batch_bytes(batch)
            if size > self.buffer_bytes:
                buffer = yield from self._half(buffer, generator)
                size = batch_bytes(buffer)
        while buffer:
            buffer = yield from self._half(buffer, generator, last=True)

    def _half(self, buffer: list[Batch], generator: torch.Generator, *, last: bool = False) -> Any:
        """Yield half of a buffer, or all of the `last` one, at random; return what is left of it."""
        if not self.size:
            positions = torch.randperm(len(buffer), generator=generator).tolist()
            half = len(buffer) if last else (len(buffer) + 1) // 2
            yield from (buffer[position] for position in positions[:half])
            return [buffer[position] for position in positions[half:]]
        inputs, targets = (torch.cat(parts) for parts in zip(*buffer, strict=True))
        buffer.clear()
        order = torch.randperm(len(targets), generator=generator)
        count = len(order) // self.size if last else len(order) // self.size // 2
        for picked in torch.split(order[: count * self.size], self.size) if count else ():
            yield inputs[picked], targets[picked]
        rest = order[count * self.size :]
        return [] if last else [(inputs[rest], targets[rest])]


def training_batches(task: Task, section: EvaluateSection) -> Iterable[Batch]:
    """Return the training split for the loop, which is read once to learn its size.

    Where it fits `section.data_mib` it is kept, and reshuffled by example where inputs and targets are tensors of one shape; other batches
    are a list, which the loop takes in a new order every epoch. Else it is streamed.
    """
    if isinstance(task.train, ShuffledBatches | StreamedBatches):
        return task.train
    stream, most_bytes = split_of(task, "train", section), section.data_mib * 2**20
    batches, figures = stream.kept, stream.whole()
    size = figures.size if figures.alike else 0
    if batches is None:
        return StreamedBatches(stream, size, most_bytes // 2)
    if not size:
        return batches
    inputs, targets = ([batch[i] for batch in batches] for i in (0, 1))
    if figures.bytes > most_bytes:  # a list of the user's
        return ShuffledBatches(Rows(inputs), Rows(targets), size)
    stream.release()
    return ShuffledBatches(torch.cat(inputs), torch.cat(targets), size)
