"""What a cache of bytes did: hits, misses, evictions, and what it holds in memory and on disk."""

from dataclasses import dataclass


@dataclass(slots=True)
class CacheCounts:
    """The lookups of a cache so far: `bytes` is held in memory now and `spilled` on disk, the others are totals."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    bytes: int = 0
    spilled: int = 0

    @property
    def hit_rate(self) -> float:
        """Hits per lookup; 0.0 before the first one."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0

    def add(self, other: "CacheCounts") -> None:
        """Count what another cache did, too."""
        self.hits, self.misses = self.hits + other.hits, self.misses + other.misses
        self.evictions, self.bytes = self.evictions + other.evictions, self.bytes + other.bytes
        self.spilled += other.spilled

    def since(self, before: "CacheCounts") -> "CacheCounts":
        """Return the counts since an earlier copy of them."""
        return CacheCounts(
            self.hits - before.hits,
            self.misses - before.misses,
            self.evictions - before.evictions,
            self.bytes - before.bytes,
            self.spilled - before.spilled,
        )
