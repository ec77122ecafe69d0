"""The schedule of Bit Fusion against an independent search in plain Python."""

import math
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_models.models.bitfusion.machine import Array, LayerWorkload
from hw_models.models.bitfusion.search import FIELDS, orders, schedule
from quant_core.util.errors import InputError

ARRAY = Array(4, 4, 24, 512, 256, 512, 10.0, (0.06, 0.11), (0.02, 0.03), (0.03, 0.07), 15.0)


def sizes(extent: int, unit: int = 1) -> list[int]:
    powers, size = [], unit
    while size < extent:
        powers.append(size)
        size *= 2
    return [*powers, extent]


def slow_search(array: Array, work: LayerWorkload, a: int, w: int) -> int:
    """Return the least cycles at stored bits, straight from the description: every tile, every order, no pruning."""
    lanes = array.rows * (8 // max(a, 2)) * (8 // max(w, 2))  # 8 // 3 = 8 // 4: 3 bits run as 4; the footprints keep 3
    k, o_all, stride, best = work.kernel[0], work.height, work.stride[0], math.inf
    limits = (array.act_bytes * 4, array.weight_bytes * 4, array.out_bytes * 4)
    out_sizes = sizes(work.out_channels) if work.im2col else sizes(work.out_channels, array.cols)
    for b, o, ic, oc in product(sizes(work.batch), sizes(o_all), sizes(work.in_channels), out_sizes):
        columns = math.ceil(oc / array.cols)
        window = o * o * k * k if work.im2col else (k + (o - 1) * stride) ** 2
        foot = (window * ic * b * a, math.ceil(k * k * ic / lanes) * lanes * oc * w, o * o * columns * array.cols * b * 32)
        if any(bits > limit for bits, limit in zip(foot, limits, strict=True)):
            continue
        steps = math.ceil(k * k * ic / lanes) if work.im2col else k * k * math.ceil(ic / lanes)
        trips = (
            math.ceil(work.batch / b),
            *[math.ceil(o_all / o)] * 2,
            math.ceil(work.in_channels / ic),
            math.ceil(work.out_channels / oc),
        )
        compute = b * o * o * columns * steps * math.prod(trips)
        for order in permutations(range(5)):
            moved, held = zip(
                *(walk(foot[t], limits[t], needs, order, trips) for t, needs in enumerate(("0123", "34", "0124"))), strict=True
            )
            first, last = sum(held), held[2]
            mid = sum(moved) + moved[2] - first - last
            bw = array.dram_bits_per_cycle
            best = min(best, compute + max(0, math.ceil(mid / bw) - compute) + math.ceil(first / bw) + math.ceil(last / bw))
    return int(best)


def walk(foot: int, limit: int, needs: str, order: tuple[int, ...], trips: tuple[int, ...]) -> tuple[int, int]:
    moved = held = foot
    fits = True
    for loop in order:
        depends = str(loop) in needs
        if depends or not fits:
            moved *= trips[loop]
        if depends and fits:
            fits = held * trips[loop] <= limit
            held *= trips[loop] if fits else 1
    return moved, held


@settings(max_examples=25, deadline=None)
@given(
    st.builds(
        lambda b, o, k, s, ci, co, im: LayerWorkload(b, o, o, ci, co, (k, k), (s, s), im2col=im),
        *(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(1, 2), st.integers(1, 20), st.integers(1, 20)),
        st.booleans(),
    ),
    st.integers(1, 8),
    st.integers(1, 8),
)
def test_the_pruned_search_finds_what_a_full_search_finds(work: LayerWorkload, a: int, w: int) -> None:
    assert schedule(ARRAY, work, a, w)[0] == slow_search(ARRAY, work, a, w)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2, 3, 8]))
def test_a_map_lying_on_its_side_costs_the_same(height: int, width: int, tall: int, wide: int, bits: int) -> None:
    upright = LayerWorkload(2, height, width, 12, 10, (tall, wide), (1, 2), (2, 1))
    turned = LayerWorkload(2, width, height, 12, 10, (wide, tall), (2, 1), (1, 2))
    assert schedule(ARRAY, upright, bits, 8)[:2] == schedule(ARRAY, turned, bits, 8)[:2]


def test_only_orders_that_can_differ_are_walked() -> None:
    assert orders(LayerWorkload(1, 1, 1, 1, 1)).tolist() == [[0]]
    assert len(orders(LayerWorkload(4, 1, 1, 8, 8))) == 6
    assert len(orders(LayerWorkload(4, 5, 5, 8, 8))) == 60
    assert len(orders(LayerWorkload(4, 5, 6, 8, 8))) == 120


def test_a_tile_that_cannot_fit_is_refused() -> None:
    tiny = Array(4, 4, 24, 8, 8, 8, 1.0, (1.0, 1.0), (1.0, 1.0), (1.0, 1.0), 1.0)
    with pytest.raises(InputError, match="not even the smallest tile fits"):
        schedule(tiny, LayerWorkload(1, 4, 4, 8, 8, (3, 3)), 8, 8)


def test_only_the_products_run_at_the_fused_width() -> None:
    """A product of 64 x 64 whose tiles are forced: one tile, so every figure can be counted by hand from the stored bits."""
    array = Array(4, 4, 24, 4096, 65536, 4096, 10.0, (0.06, 0.11), (0.02, 0.03), (0.03, 0.07), 15.0)
    for stored, fused in ((1, 2), (2, 2), (3, 4), (4, 4), (5, 8), (6, 8), (7, 8), (8, 8)):
        figures = dict(zip(FIELDS, schedule(array, LayerWorkload(1, 1, 1, 64, 64), stored, stored), strict=True))
        lanes = 4 * (8 // fused) ** 2
        assert figures["cycles"] - figures["stall_cycles"] == 16 * -(-64 // lanes)
        assert figures["wbuf_write_bits"] == 64 * 64 * stored
        assert figures["ibuf_write_bits"] == 64 * stored
        assert figures["wbuf_read_bits"] == 64 * 64 * stored
        assert figures["dram_read_bits"] == 64 * 64 * stored + 64 * stored + 64 * 32
