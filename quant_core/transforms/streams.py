"""Streams: tensors of one run whose channels are mapped together or not at all, with what makes and what reads them."""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quant_core.transforms.maps import ChannelMap


@dataclass(frozen=True, eq=False)
class State:
    """How a tensor changes: by `map` along `axis`, where `mask` is true (None: everywhere), if the stream `stream` is mapped."""

    stream: int
    map: ChannelMap
    axis: int
    mask: Tensor | None = None

    def mapped(self, x: Tensor) -> Tensor:
        """Return the tensor as it would be."""
        full = self.map.apply(x, self.axis)
        return full if self.mask is None else torch.where(self.mask, full, x)


@dataclass(frozen=True)
class Source:
    """Where a stream starts: the output of a layer or a module, or a parameter.

    Attributes:
        map: of its channels.
        axis: of the output, from its end.
        channels: booleans [C], the channels that are mapped; None: all.
    """

    map: ChannelMap
    axis: int = -1
    channels: Tensor | None = None


@dataclass
class Stream:
    """Tensors that are mapped together or not at all.

    Attributes:
        sources: modules and parameters that make them.
        sinks: layers that read them.
        map: the common map.
        broken: why they cannot be mapped; "" where they can.
    """

    map: ChannelMap
    sources: list[str] = field(default_factory=list)
    sinks: list[str] = field(default_factory=list)
    broken: str = ""


class Streams:
    """Sets of sources that were proved to belong together (a union-find)."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._streams: list[Stream] = []
        self._calls: dict[str, list[int]] = {}

    def new(self, source: str, channel_map: ChannelMap) -> int:
        """Start a stream; return its number."""
        self._parents.append(len(self._parents))
        self._streams.append(Stream(channel_map, [source]))
        return len(self._parents) - 1

    def root(self, number: int) -> int:
        """Return the number of the set that a stream belongs to."""
        while self._parents[number] != number:
            number = self._parents[number]
        return number

    def join(self, numbers: Collection[int]) -> None:
        """Put streams into one set."""
        first, *others = sorted({self.root(number) for number in numbers})
        for other in others:
            self._parents[other] = first
            one, two = self._streams[first], self._streams[other]
            one.sources += two.sources
            one.broken = one.broken or two.broken

    def shatter(self, numbers: Collection[int], reason: str) -> None:
        """Say why the sets of these streams cannot be mapped."""
        for number in numbers:
            stream = self._streams[self.root(number)]
            stream.broken = stream.broken or reason

    def is_broken(self, number: int) -> bool:
        """Tell whether the set of a stream cannot be mapped."""
        return bool(self._streams[self.root(number)].broken)

    def read(self, layer: str, number: int) -> None:
        """Note a call of a layer and the stream that it reads, -1 for none."""
        self._calls.setdefault(layer, []).append(number)

    def settled(self) -> list[Stream]:
        """Return the sets; a layer that reads a stream in some calls and another one or none in others breaks them."""
        changed = True
        while changed:
            changed = False
            for layer, numbers in self._calls.items():
                live = {self.root(number) for number in numbers if number >= 0 and not self.is_broken(number)}
                if live and (len(live) > 1 or any(number < 0 or self.is_broken(number) for number in numbers)):
                    self.shatter(live, f"{layer} is called several times, with inputs that are not mapped alike")
                    changed = True
        for layer, numbers in self._calls.items():
            for number in {self.root(number) for number in numbers if number >= 0}:
                self._streams[number].sinks.append(layer)
        return [stream for number, stream in enumerate(self._streams) if self._parents[number] == number]
