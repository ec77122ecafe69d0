"""Bit Fusion: published schedules, an independent search in plain Python, and what the device makes of them."""

import json
import math
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_models.device import FOLDER, Device
from hw_models.loading import load_device, parse_device
from hw_models.models.bitfusion.cache import cache_path, schedules
from hw_models.models.bitfusion.machine import Array, LayerWorkload, fusion, native_bits, workload_of
from hw_models.models.bitfusion.model import PARTS, array_of, charged
from hw_models.models.bitfusion.search import orders, schedule
from hw_models.shapes import layer_of, read_layers
from hw_models.table import build_table, cost_policy
from hw_models.validation.run import validate
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import make, parse
from quant_core.util.errors import InputError

ARRAY = Array(4, 4, 24, 512, 256, 512, 10.0, (0.06, 0.11), (0.02, 0.03), (0.03, 0.07), 15.0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    schedules.cache_clear()
    return tmp_path


@pytest.fixture
def device() -> Device:
    return load_device("bitfusion")


def conv(ci: int, co: int, kernel: int = 3, size: int = 8, **more: object) -> Layer:
    row = {"layer": "x", "kind": "conv", "in_channels": ci, "out_channels": co, "kernel": kernel, "in_size": size, **more}
    return layer_of({key: str(value) for key, value in row.items()})


def of_bits(w: int, a: int) -> LayerPolicy:
    return LayerPolicy(make("int", w, "channel"), make("int", a, "tensor"))


def test_every_published_schedule_is_exact(device: Device) -> None:
    checks = {each.name: each for each in validate(device)}
    assert [each.passed for each in checks.values()] == [True] * 3
    rows = checks["published schedules, cycles and stalls"]
    assert (rows.n, rows.exact, rows.mismatches) == (176, 176, ())
    assert "stall_cycles exact in 176 of 176" in rows.remarks[0]
    assert rows.remarks[0].count(" 176") == 10
    assert checks["cycles of whole networks, batch 16"].exact == 5


@pytest.mark.parametrize("column", ["cycles", "stall_cycles"])
def test_another_file_fails_on_one_wrong_figure_and_shows_it(device: Device, tmp_path: Path, column: str) -> None:
    lines = [line for line in (FOLDER / "bitfusion.csv").read_text().splitlines() if not line.startswith("#")]
    place = lines[0].split(",").index(column)
    values = lines[5].split(",")
    values[place] = str(int(values[place]) + 1)
    path = tmp_path / "other.csv"
    path.write_text("\n".join([lines[0], *lines[1:5], ",".join(values)]))
    (check,) = validate(device, path)
    assert (check.n, check.exact, check.passed) == (5, 4, False)
    assert len(check.mismatches) == 1
    assert "AlexNet conv1_b (16x32, 192 bits/cycle; stalls" in check.mismatches[0]


def test_a_row_that_is_no_number_is_refused(device: Device, tmp_path: Path) -> None:
    lines = (FOLDER / "bitfusion.csv").read_text().splitlines()[1:3]
    path = tmp_path / "other.csv"
    path.write_text("\n".join([lines[0], lines[1].replace(",96,", ",many,", 1)]))
    with pytest.raises(InputError, match="row 1: out_channels is 'many'; a whole number from 1 is needed"):
        validate(device, path)
    values = lines[1].split(",")
    for column, wrong, message in (
        ("dram_read_bits", "", "row 1: dram_read_bits is ''; a whole number from 0 is needed"),
        ("array_rows", "0", "row 1: array_rows is '0'; a whole number from 1 is needed"),
        ("act_sram_bytes", "1", "AlexNet conv1_a: LayerWorkload.* not even the smallest tile fits"),
    ):
        altered = [wrong if name == column else value for name, value in zip(lines[0].split(","), values, strict=True)]
        path.write_text("\n".join([lines[0], ",".join(altered)]))
        with pytest.raises(InputError, match=message):
            validate(device, path)
    path.write_text("network,layer\nA,b\n")
    with pytest.raises(InputError, match=r"columns kernel, out_size, .* are missing"):
        validate(device, path)


def sizes(extent: int, unit: int = 1) -> list[int]:
    found, size = [], unit
    while size < extent:
        found.append(size)
        size *= 2
    return [*found, extent]


def slow_search(array: Array, work: LayerWorkload, a: int, w: int) -> int:
    """Return the least cycles, straight from the description: every tile, every order, no pruning."""
    lanes = array.rows * (8 // a) * (8 // w)
    k, o_all, stride, best = work.kernel[0], work.height, work.stride[0], math.inf
    limits = (array.act_bytes * 4, array.weight_bytes * 4, array.out_bytes * 4)
    out_sizes = sizes(work.out_channels) if work.im2col else sizes(work.out_channels, array.cols)
    for b, o, ic, oc in product(sizes(work.batch), sizes(o_all), sizes(work.in_channels), out_sizes):
        columns = math.ceil(oc / array.cols)
        window = o * o * k * k if work.im2col else (k + (o - 1) * stride) ** 2
        foot = (window * ic * b * a, math.ceil(k * k * ic / lanes) * lanes * oc * w, o * o * columns * array.cols * b * 32)
        if any(each > limit for each, limit in zip(foot, limits, strict=True)):
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


@settings(max_examples=12, deadline=None)
@given(
    st.builds(
        lambda b, o, k, s, ci, co, im: LayerWorkload(b, o, o, ci, co, (k, k), (s, s), im2col=im),
        *(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(1, 2), st.integers(1, 20), st.integers(1, 20)),
        st.booleans(),
    ),
    st.sampled_from([2, 4, 8]),
    st.sampled_from([2, 4, 8]),
)
def test_the_pruned_search_finds_what_a_full_search_finds(work: LayerWorkload, a: int, w: int) -> None:
    assert schedule(ARRAY, work, a, w)[0] == slow_search(ARRAY, work, a, w)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.sampled_from([2, 4, 8]))
def test_a_map_lying_on_its_side_costs_the_same(height: int, width: int, tall: int, wide: int, bits: int) -> None:
    upright = LayerWorkload(2, height, width, 12, 10, (tall, wide), (1, 2), (2, 1))
    turned = LayerWorkload(2, width, height, 12, 10, (wide, tall), (2, 1), (1, 2))
    assert schedule(ARRAY, upright, bits, 8)[:2] == schedule(ARRAY, turned, bits, 8)[:2]


def test_only_orders_that_can_differ_are_walked() -> None:
    assert orders(LayerWorkload(1, 1, 1, 1, 1)).tolist() == [[0]]
    assert len(orders(LayerWorkload(4, 1, 1, 8, 8))) == 6
    assert len(orders(LayerWorkload(4, 5, 5, 8, 8))) == 60
    assert len(orders(LayerWorkload(4, 5, 6, 8, 8))) == 120


def test_bits_run_as_native_bits() -> None:
    bits = np.arange(1, 17)
    assert native_bits(bits).tolist() == [2, 2, 4, 4, 8, 8, 8, 8] + [16] * 8
    factor, passes = fusion(np.array([2, 4, 8, 16]), np.array([2, 2, 8, 16]))
    assert factor.tolist() == [16, 8, 1, 1]
    assert passes.tolist() == [1, 1, 1, 4]


def test_sixteen_bits_take_four_times_the_compute_of_eight(device: Device) -> None:
    layer = conv(64, 64, 3, 16)
    rows = [build_table(device, (layer,), {"x": (of_bits(b, b),)}).explain({"x": of_bits(b, b)})[0] for b in (8, 16)]
    assert rows[1]["compute_s"] == pytest.approx(4 * rows[0]["compute_s"])


def test_the_narrow_codes_cost_what_their_native_mode_does(device: Device) -> None:
    layer = conv(64, 64, 3, 16)
    texts = {"int1:channel": 2, "binary": 2, "ternary": 2, "int3:channel": 4, "int5:channel": 8, "int9:channel": 16}
    for text, native in texts.items():
        narrow = LayerPolicy(parse(text), make("int", 8, "tensor"))
        table = build_table(device, (layer,), {"x": (narrow, of_bits(native, 8))})
        assert table.values["latency_s"][0, 0] == table.values["latency_s"][0, 1]
        assert table.values["energy_j"][0, 0] == table.values["energy_j"][0, 1]


@pytest.mark.parametrize("batch_of", ["mobilenet", "small"])
def test_more_bits_never_cost_less(device: Device, batch_of: str) -> None:
    small = [
        conv(ci, co, k, s) for ci, co, k, s in ((1, 8, 3, 8), (8, 16, 3, 8), (3, 30, 1, 1), (24, 16, 1, 1), (50, 100, 1, 14), (9, 1, 5, 6))
    ]
    layers = small if batch_of == "small" else read_layers(FOLDER / "haq_vu9p_mobilenetv2.csv")[:8]
    pairs = list(product(range(1, 9), range(1, 9)))
    for layer in layers:
        table = build_table(device, (layer,), {layer.name: [of_bits(w, a) for w, a in pairs]})
        for metric in ("latency_s", "energy_j"):
            cost = table.values[metric].reshape(8, 8)
            assert (np.diff(cost, axis=0) >= 0).all()
            assert (np.diff(cost, axis=1) >= 0).all()


def test_charging_keeps_equal_pairs_and_makes_the_rest_monotone() -> None:
    raw = np.array([[5.0, 4.0, 30.0], [9.0, 8.0, 7.0], [6.0, 21.0, 20.0]])
    assert charged(raw).tolist() == [[5, 5, 20], [8, 8, 20], [8, 20, 20]]
    assert charged(np.array([[5.0, 6.0], [6.0, 3.0]])).tolist() == [[5, 5], [5, 5]]


def test_time_and_energy_split_into_parts_that_sum_to_the_whole(device: Device) -> None:
    layer, policy = conv(64, 128, 3, 16), {"x": of_bits(4, 8)}
    (row,) = build_table(device, (layer,), {"x": (policy["x"],)}).explain(policy)
    assert row["latency_s"] == pytest.approx(row["compute_s"] + row["stall_s"])
    assert row["stall_s"] > 0
    assert tuple(row["energy_parts_j"]) == PARTS
    assert row["energy_j"] == pytest.approx(sum(row["energy_parts_j"].values()))


def test_layers_become_the_work_of_the_array() -> None:
    assert workload_of(conv(3, 32, 3, 8, stride=2), 16, 4) == (LayerWorkload(16, 4, 4, 3, 32, (3, 3), (2, 2), im2col=True), 1)
    assert workload_of(conv(64, 32, 3, 8, groups=4), 16, 4) == (LayerWorkload(16, 8, 8, 16, 8, (3, 3)), 4)
    assert workload_of(conv(8, 8, 3, 8, kind="depthwise"), 1, 4) == (LayerWorkload(1, 8, 8, 1, 1, (3, 3)), 8)
    assert workload_of(conv(64, 10, 1, 5, kind="linear"), 16, 4) == (LayerWorkload(80, 1, 1, 64, 10), 1)
    transposed = Layer("t", "conv_transpose", 16, 8, (16, 8, 2, 2), (4, 4), (8, 8), 1, (2, 2), (2, 2), (1, 1))
    assert workload_of(transposed, 2, 4) == (LayerWorkload(2, 4, 4, 16, 32), 1)
    one = Layer("c", "conv", 16, 8, (8, 16, 3), (20,), (18,), 1, (3,), (1,), (1,))
    assert workload_of(one, 2, 4) == (LayerWorkload(2, 1, 18, 16, 8, (1, 3)), 1)


def test_groups_run_one_after_the_other(device: Device) -> None:
    choice = of_bits(8, 8)
    whole = cost_policy(device, (conv(64, 64, 3, 8, groups=4),), {"x": choice})
    part = cost_policy(device, (conv(16, 16, 3, 8),), {"x": choice})
    assert whole["latency_s"] == pytest.approx(4 * part["latency_s"])
    assert whole["energy_j"] == pytest.approx(4 * part["energy_j"])


def test_a_tile_that_cannot_fit_is_refused() -> None:
    tiny = Array(4, 4, 24, 8, 8, 8, 1.0, (1.0, 1.0), (1.0, 1.0), (1.0, 1.0), 1.0)
    with pytest.raises(InputError, match="not even the smallest tile fits"):
        schedule(tiny, LayerWorkload(1, 4, 4, 8, 8, (3, 3)), 8, 8)


def test_schedules_are_read_back_from_the_cache_and_a_damaged_file_is_replaced(own_cache: Path) -> None:
    work = LayerWorkload(1, 4, 4, 8, 8, (3, 3))
    first = schedules(ARRAY, work, 8)
    path = cache_path(ARRAY, work, 8)
    assert path.is_relative_to(own_cache)
    planted = [[1] * 10 for _ in first]
    path.write_text(json.dumps(planted))
    schedules.cache_clear()
    assert set(schedules(ARRAY, work, 8).values()) == {(1,) * 10}
    path.write_text("[[1, 2")
    schedules.cache_clear()
    assert schedules(ARRAY, work, 8) == first
    assert len(json.loads(path.read_text())) == 9


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("BITFRONT_CACHE", str(blocked))
    assert len(schedules(ARRAY, LayerWorkload(1, 2, 2, 8, 8), 8)) == 9


@pytest.mark.parametrize(("key", "message"), [("core_pj_per_cycle", "core_pj_per_cycle"), ("bits_per_cycle", "needs bits_per_cycle")])
def test_a_device_that_lacks_a_number_says_which(device: Device, key: str, message: str) -> None:
    kept = [line for line in device.to_toml().splitlines() if not line.startswith(f"{key} ")]
    with pytest.raises(InputError, match=message):
        array_of(parse_device("\n".join(kept)))


def test_a_device_that_lacks_a_buffer_says_which(device: Device) -> None:
    text = device.to_toml().replace('name = "weight_buffer"', 'name = "pantry"')
    with pytest.raises(InputError, match=r"memory level 'weight_buffer' .* levels: dram, activation_buffer, pantry, output_buffer"):
        array_of(parse_device(text))
