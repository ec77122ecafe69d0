"""One pass over a split: cut to the examples that are asked for, counted, and hashed where that is wanted."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from quant_core.network.forward import first_examples
from quant_core.util.errors import BitfrontError, InputError, first_line
from quant_core.util.rng import isolated
from quant_core.util.text import listed
from search.tasks.batches import Divided, Pair, cut, divisible, size_of
from search.tasks.task import Batch

AGAIN = "give what can be read again and again: a list of batches or a DataLoader"


@dataclass(frozen=True)
class Figures:
    """What one whole pass over a split read.

    Attributes:
        batches, examples, bytes: how much.
        size: examples in the first batch.
        alike: inputs and targets are tensors, and all their examples have one shape.
        digest: of types, shapes and contents; of nothing where the pass was not hashed.
    """

    batches: int
    examples: int
    bytes: int
    size: int
    alike: bool
    digest: str


class Pass:
    """A pass over the batches of `source`, an iterator, up to `examples` examples (0: all that come) of the split `name`."""

    def __init__(self, name: str, source: Iterator[Batch], examples: int, *, hashed: bool = False) -> None:
        self._name = name
        self.source, self.batches, self.examples, self.bytes, self._size = source, 0, 0, 0, 0
        self._most, self._digest = examples, hashlib.sha256() if hashed else None
        self._layouts: set[object] = set()

    @property
    def over(self) -> bool:
        """True where all examples that are asked for were read."""
        return 0 < self._most <= self.examples

    def read(self) -> Batch | None:
        """Return the next batch, None at the end; what lies behind the last one is not read.

        Raises:
            InputError: the batch is no (inputs, targets).
            BitfrontError: the source fails.
        """
        if self.over:
            return None
        try:
            with torch.inference_mode(False):
                batch = next(self.source, None)
        except BitfrontError:
            raise
        except Exception as error:  # whatever a user's loader does
            where = f"{self._name} fails at batch {self.batches + 1}"
            raise BitfrontError(f"{where} with {first_line(error)}. Mend it, or leave such examples out.") from error
        return None if batch is None else self.account(batch)

    def account(self, batch: Batch) -> Batch:
        """Count a batch and return it, cut to the examples that are left; whole where it holds a tensor without a row per example.

        Raises:
            InputError: it is no (inputs, targets), or an empty batch behind others.
        """
        check_batch(self._name, batch)
        inputs, targets = batch
        left, size = self._most - self.examples, size_of(inputs, targets)
        divided = isinstance(batch, Pair)
        if not size and self.batches:
            raise InputError(f"batch {self.batches + 1} of {self._name} is empty; leave it out.")
        if self._most and left < size and divisible(inputs, size):
            inputs = cut(inputs, left, size) if divided else first_examples(inputs, left)
            targets, size = cut(targets, left, size), left
        self._size = self._size or size
        self.batches, self.examples = self.batches + 1, self.examples + size
        self.bytes += batch_bytes((inputs, targets))
        self._layouts.add(_layout(inputs, targets))
        if self._digest is not None:
            feed(self._digest, (inputs, targets))
        return Pair(inputs, targets) if divided else (inputs, targets)

    def figures(self) -> Figures:
        """Return the figures of the batches read so far."""
        alike = len(self._layouts) == 1 and None not in self._layouts
        return Figures(self.batches, self.examples, self.bytes, self._size, alike, self._digest.hexdigest() if self._digest else "")


def raw(source: Iterable[Batch], start: int) -> Iterator[Batch]:
    """Iterate over a source of batches; one that draws random numbers has its own, which start from `start`."""
    return iter(source) if isinstance(source, list | tuple) else isolated(source, start)


def _layout(inputs: Any, targets: Any) -> object:
    """Return the shapes of one example; None where inputs are no tensor with one row per target."""
    tensors = isinstance(inputs, Tensor) and inputs.dim() > 0 and isinstance(targets, Tensor) and targets.dim() > 0
    pair = tensors and len(inputs) == len(targets)
    return (inputs.shape[1:], targets.shape[1:]) if pair else None


def batch_bytes(batch: object) -> int:
    """Return the bytes of a batch's tensors."""
    return sum(leaf.nbytes for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))


def feed(digest: "hashlib._Hash", batch: object) -> None:
    """Add types, shapes and contents of a batch's tensors, and its numbers and texts, to a hash."""
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor):
            digest.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
            digest.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(leaf, bool | int | float | str):
            digest.update(repr(leaf).encode())


def own_fingerprint(source: object) -> str:
    """Return the fingerprint that a source, or the data set of a DataLoader, says of itself; "" where it says none.

    It is a text in the attribute `fingerprint`, or in `_fingerprint` as `datasets.Dataset` has it. With it stands what a DataLoader does
    to the order: batch size, sampler, whether the last batch is dropped.
    """
    source = source.source if isinstance(source, Divided) else source
    dataset = source.dataset if isinstance(source, DataLoader) else source
    for name in ("fingerprint", "_fingerprint"):
        value = getattr(dataset, name, None)
        if isinstance(value, str) and value:
            order = (source.batch_size, type(source.sampler).__name__, source.drop_last) if isinstance(source, DataLoader) else ()
            return repr((value, *order))
    return ""


def check_readable(what: str, source: object) -> None:
    """Refuse a source that gives no batches, or gives them once.

    Raises:
        InputError: it is no iterable, or an iterator.
    """
    if not isinstance(source, Iterable) or isinstance(source, Iterator):
        once = " A generator is read up after one pass: put it into an object whose __iter__ calls the generator function."
        advice = once if isinstance(source, Iterator) else ""
        raise InputError(f"{what} is a {type(source).__name__}; {AGAIN}.{advice}")


def check_batch(what: str, batch: Any) -> None:
    """Refuse a batch that is not (inputs, targets).

    Raises:
        InputError: it is another thing, or its targets are no tensor with one entry per example, or a tensor is sparse.
    """
    if any(isinstance(leaf, Tensor) and leaf.layout != torch.strided for leaf in tree_leaves(batch)):
        raise InputError(f"{what} gives sparse tensors, of which no single examples can be taken; give dense ones: x.to_dense().")
    if isinstance(batch, Pair):
        return
    targets: Any = batch[1] if isinstance(batch, tuple | list) and len(batch) == 2 else None
    if not isinstance(targets, Tensor) or not targets.dim():
        kinds = f" of {listed(type(part).__name__ for part in batch)}" if isinstance(batch, tuple | list) else ""
        raise InputError(
            f"{what} gives batches of type {type(batch).__name__}{kinds}; every batch must be (inputs, targets), "
            f"targets a tensor [N, ...] with one entry per example. For other batches give Task metrics, or a batch function."
        )
