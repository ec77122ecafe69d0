"""The counts of caches."""

from quant_core.util.cache import CacheCounts


def test_counts_of_several_caches_add_up() -> None:
    total = CacheCounts(5, 3, 1, 80, 7)
    total.add(CacheCounts(9, 4, 2, 96, 9).since(CacheCounts(2, 2, 1, 16, 4)))
    assert total == CacheCounts(12, 5, 2, 160, 12)
    assert total.hit_rate == 12 / 17
    assert CacheCounts().hit_rate == 0.0
