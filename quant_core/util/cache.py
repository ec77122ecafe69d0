"""A cache that never holds more than its limit of bytes, and counts what it does."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class ByteSized(Protocol):
    """A value with a size in bytes."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""


Value = TypeVar("Value", bound=ByteSized)


@dataclass(slots=True)
class CacheCounts:
    """The lookups of a cache so far: `bytes` is held now, the others are totals."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    bytes: int = 0

    @property
    def hit_rate(self) -> float:
        """Hits per lookup; 0.0 before the first one."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0

    def add(self, other: "CacheCounts") -> None:
        """Count what another cache did, too."""
        self.hits, self.misses = self.hits + other.hits, self.misses + other.misses
        self.evictions, self.bytes = self.evictions + other.evictions, self.bytes + other.bytes

    def since(self, before: "CacheCounts") -> "CacheCounts":
        """Return the counts since an earlier copy of them."""
        return CacheCounts(
            self.hits - before.hits, self.misses - before.misses, self.evictions - before.evictions, self.bytes - before.bytes
        )


class BoundedCache(Generic[Value]):
    """Keeps the most recently used values within `limit` bytes; a value larger than the limit is returned but not kept."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.counts = CacheCounts()
        self._entries: OrderedDict[Hashable, Value] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value under `key`, made by `make` where it is not held. It must not be written to."""
        if key in self._entries:
            self.counts.hits += 1
            self._entries.move_to_end(key)
            return self._entries[key]
        self.counts.misses += 1
        value = make()
        if value.nbytes <= self.limit:
            self._entries[key] = value
            self.counts.bytes += value.nbytes
            while self.counts.bytes > self.limit:
                _, evicted = self._entries.popitem(last=False)
                self.counts.bytes -= evicted.nbytes
                self.counts.evictions += 1
        return value

    def __len__(self) -> int:
        return len(self._entries)
