"""The cache keeps its limit and counts."""

import torch
from torch import Tensor

from quant_core.util.cache import BoundedCache, CacheCounts


def test_least_recently_used_goes_first_and_bytes_stay_under_the_limit() -> None:
    cache: BoundedCache[Tensor] = BoundedCache(limit=100)
    made: list[str] = []

    def make(key: str, elements: int = 10) -> Tensor:
        def build() -> Tensor:
            made.append(key)
            return torch.zeros(elements)

        return cache.get(key, build)

    first = make("a")
    make("b")
    assert make("a") is first
    make("c")
    assert (cache.counts.hits, cache.counts.misses, cache.counts.evictions, cache.counts.bytes) == (1, 3, 1, 80)
    assert make("a") is first
    make("b")
    assert made == ["a", "b", "c", "b"]
    assert cache.counts.hit_rate == 2 / 6
    assert len(cache) == 2


def test_what_is_larger_than_the_limit_is_returned_and_not_kept() -> None:
    cache: BoundedCache[Tensor] = BoundedCache(limit=10)
    assert cache.get("a", lambda: torch.ones(3)).sum() == 3
    assert (len(cache), cache.counts.bytes, cache.counts.hit_rate) == (0, 0, 0.0)


def test_counts_of_several_caches_add_up() -> None:
    total = CacheCounts(5, 3, 1, 80)
    total.add(CacheCounts(9, 4, 2, 96).since(CacheCounts(2, 2, 1, 16)))
    assert total == CacheCounts(12, 5, 2, 160)
