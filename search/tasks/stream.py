"""A split of a task as it is read: no further than its size asks, kept in memory while it fits, else read anew at every pass."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

from torch.utils.data import DataLoader

from quant_core.util.errors import BitfrontWarning, InputError
from search.config.evaluation import EvaluateSection
from search.tasks.batches import Divided, size_of
from search.tasks.data_free import Synthetic, synthetic
from search.tasks.images import Batches
from search.tasks.reading import AGAIN, Figures, Pass, check_readable, feed, own_fingerprint, raw
from search.tasks.task import Batch, Task

Split = Literal["train", "calib", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "calib", "valid", "test")
STAYS = ("train", "test")
"""Splits whose kept batches are not sent to workers: training reads the first there, the second is judged by the driver."""


STREAMED = ("valid", "test")
"""Splits that are only ever read from the first batch to the last."""


class FewExamplesWarning(BitfrontWarning):
    """A split has fewer examples than the experiment asks for."""


class Stream:
    """The first examples of a split. Every pass gives the same batches: what shuffles or adds noise does so alike every time.

    Batches are kept in memory while all that were read fit `most_bytes`; past that none is, and every pass reads anew, batch by batch.
    Batches of images that lie in memory as pixels are made anew at every pass over validation or test.

    Args:
        name: of the split.
        source: what the task gives. A list lies in memory already: its batches are kept as they are, never copied.
        examples: how many to read; 0: all.
        most_bytes: what may be kept; None: everything.
        hashed: contents are hashed in the first pass.
        shared: another split reads the same source; no pass over it stays open.

    Raises:
        InputError: the source can be read only once.
    """

    def __init__(
        self,
        name: str,
        source: Iterable[Batch],
        examples: int = 0,
        most_bytes: int | None = None,
        *,
        hashed: bool = False,
        shared: bool = False,
    ) -> None:
        check_readable(name, source)
        self.name, self.source, self.examples, self.hashed, self._shared = name, source, examples, hashed, shared
        self.most_bytes = None if isinstance(source, list | tuple) else most_bytes
        self._pixels = isinstance(source, Batches)  # they lie in memory, in a quarter of the bytes of their batches
        self._kept: list[Batch] | None = None if self._pixels and name in STREAMED else []
        self._open: Pass | None = None
        self._complete: Figures | None = None

    def cut(self, examples: int, most_bytes: int | None, *, hashed: bool = False) -> "Stream":
        """Return the first examples of the same source, going on with a pass that was begun; itself where nothing changes."""
        most_bytes = None if isinstance(self.source, list | tuple) else most_bytes
        if (self.examples, self.most_bytes) == (examples, most_bytes) and (self.hashed or not hashed):
            return self
        other = Stream(self.name, self.source, examples, most_bytes, hashed=hashed, shared=self._shared)
        if self._open is not None and self._kept:
            other._open, self._open = Pass(self.name, self._open.source, examples, hashed=hashed), None
            other._kept = [other._open.account(batch) for batch in self._kept if not other._open.over]
        return other

    def first(self) -> Batch | None:
        """Return the first batch, None where there is none. No other is read."""
        if self._pixels:
            return Pass(self.name, raw(self.source, 0), self.examples).read()
        batch = next(iter(self), None)
        if self._shared or (isinstance(self.source, DataLoader) and self.source.num_workers):
            self._open = None  # its workers end with it
        return batch

    def __iter__(self) -> Iterator[Batch]:
        """Yield (inputs, targets)."""
        position = 0
        while self._kept is not None and (position < len(self._kept) or self._extend()):
            yield self._kept[position]
            position += 1
        if self._kept is None:
            reading, self._open = self._open, None
            yield from self._through(reading if reading and reading.batches == position else self._begun(position))

    def shuffled(self, start: int) -> Iterator[Batch]:
        """Yield the batches of a pass of its own, kept nowhere, whose random numbers begin at `start`: another order where it shuffles."""
        return self._through(Pass(self.name, raw(self.source, start), self.examples))

    def whole(self, report: Callable[[int], None] | None = None) -> Figures:
        """Return the figures of the whole split, read once for them; `report` is told the examples read."""
        count = 0
        for inputs, targets in self if self._complete is None else ():
            count += size_of(inputs, targets)
            if report:
                report(count)
        if self._complete is None:
            raise InputError(f"{self.name}: {AGAIN}.")
        return self._complete

    @property
    def kept(self) -> list[Batch] | None:
        """The batches of the whole split; None where they do not fit. It is read once to know."""
        self.whole()
        return self._kept

    def release(self) -> None:
        """Keep no batch from now on."""
        if not isinstance(self.source, list | tuple):
            self._kept = self._open = None

    def fingerprint(self, report: Callable[[int], None] | None = None) -> str:
        """Return the hash of all that is read; of the first batch and the data set's own fingerprint where it has one."""
        text = own_fingerprint(self.source)
        if not text:
            return self.whole(report).digest
        digest = hashlib.sha256(repr((text, self.examples)).encode())
        feed(digest, self.first())
        return digest.hexdigest()

    def _extend(self) -> bool:
        """Read and keep one more batch; False at the end, and once what is kept does not fit: it is dropped then."""
        if self._complete is not None or self._kept is None:
            return False
        self._open = self._open or self._begun(len(self._kept))
        if self.most_bytes is not None and self._open.bytes > self.most_bytes:
            self._kept = None
            return False
        reading, self._open = self._open, None  # a source that raises must be begun anew
        batch = reading.read()
        if batch is None:
            self._end(reading)
            return False
        self._open = reading
        self._kept.append(batch)
        return True

    def _begun(self, position: int) -> Pass:
        """Return a pass that stands at a position.

        Raises:
            InputError: the source ends before it.
        """
        reading = Pass(self.name, raw(self.source, 0), self.examples, hashed=self.hashed and self._complete is None)
        while reading.batches < position:
            if reading.read() is None:
                raise InputError(f"{self.name} gave {position} batches or more before, and {reading.batches} now; {AGAIN}.")
        return reading

    def _through(self, reading: Pass) -> Iterator[Batch]:
        while (batch := reading.read()) is not None:
            yield batch
            del batch  # the caller's alone while the next one is read
        self._end(reading)

    def _end(self, reading: Pass) -> None:
        """Note the end of a pass.

        Raises:
            InputError: it gave less or more than the first one.
        """
        now = reading.figures()
        before = self._complete = self._complete or now
        if (before.batches, before.examples) != (now.batches, now.examples):
            raise InputError(
                f"{self.name} gave {before.examples} examples in {before.batches} batches at first, and {now.examples} in {now.batches} "
                f"now; {AGAIN}."
            )
        if before is now and now.examples < self.examples:
            text = f"{self.name} = {self.examples} examples given; the task has {now.examples} there, and all of them are used."
            warnings.warn(text, FewExamplesWarning, stacklevel=3)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open pass, and the batches that a worker does not need."""
        sent = self._kept is None or isinstance(self.source, list | tuple) or self.name not in STAYS
        dropped: dict[str, Any] = {} if sent else {"_kept": [], "_complete": None}
        return {**self.__dict__, "_open": None, "hashed": False, **dropped}


def split_of(task: Task, name: Split, section: EvaluateSection, *, hashed: bool = False) -> Stream:
    """Return one split of a task, of the size that the section asks for. What `calib` reads is always kept: its statistics need it."""
    most_bytes = None if name == "calib" else section.data_mib * 2**20
    examples = {"train": 0, "calib": section.calib, "valid": section.valid, "test": section.test}[name]
    return opened(task, name).cut(examples, most_bytes, hashed=hashed)


def opened(task: Task, name: Split) -> Stream:
    """Return one split of a task, whole."""
    source = getattr(task, name)
    if isinstance(source, Stream):
        return source
    return Stream(name, source, shared=sum(_origin(getattr(task, other)) is _origin(source) for other in SPLITS) > 1)


def _origin(source: object) -> object:
    """Return the owner's batches behind divided ones."""
    return source.source if isinstance(source, Divided) else source


def sized(task: Task, section: EvaluateSection, *, hashed: bool = False) -> Task:
    """Return the task with every split of the size that the section asks for, hashed as it is read where that is wanted.

    With `calib_from = "batch_norms"` the calibration split is made of the network's batch norms; its own, or validation, tells the shape.

    Raises:
        InputError: it cannot be made, see `search.tasks.data_free`.
    """
    if section.calib_from == "batch_norms" and not isinstance(opened(task, "calib").source, Synthetic):
        example = opened(task, "calib").first() or opened(task, "valid").first()
        if example is None:
            raise InputError("the task's calibration and validation splits are empty; give at least one batch.")
        task = replace(task, calib=synthetic(task, example[0], section.calib))
    splits: dict[str, Any] = {name: split_of(task, name, section, hashed=hashed) for name in SPLITS}
    return replace(task, **splits)
