"""What a Bit Fusion device makes of schedules."""

from itertools import product

import numpy as np
import pytest

from hw_models.device import FOLDER, Device
from hw_models.loading import load_device, parse_device
from hw_models.models.bitfusion.model import PARTS, array_of, charged
from hw_models.shapes import layer_of, read_layers
from hw_models.table import build_table, cost_policy
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import make, parse
from quant_core.util.errors import InputError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def device() -> Device:
    return load_device("bitfusion")


def conv(ci: int, co: int, kernel: int = 3, size: int = 8, **more: object) -> Layer:
    row = {"layer": "x", "kind": "conv", "in_channels": ci, "out_channels": co, "kernel": kernel, "in_size": size, **more}
    return layer_of({key: str(value) for key, value in row.items()})


def of_bits(w: int, a: int) -> LayerPolicy:
    return LayerPolicy(make("int", w, "channel"), make("int", a, "tensor"))


def test_sixteen_bits_take_four_times_the_compute_of_eight(device: Device) -> None:
    layer = conv(64, 64, 3, 16)
    rows = [build_table(device, (layer,), {"x": (of_bits(b, b),)}).explain({"x": of_bits(b, b)})[0] for b in (8, 16)]
    assert rows[1]["compute_s"] == pytest.approx(4 * rows[0]["compute_s"])


def test_the_narrow_codes_run_as_their_fused_mode_and_move_their_own_bits(device: Device) -> None:
    layer = conv(64, 64, 3, 16)
    texts = {"int1:channel": 2, "binary": 2, "ternary": 2, "int3:channel": 4, "int5:channel": 8, "int9:channel": 16}
    for text, fused in texts.items():
        narrow = LayerPolicy(parse(text), make("int", 8, "tensor"))
        policies = (narrow, of_bits(fused, 8))
        table = build_table(device, (layer,), {"x": policies})
        own, run = (table.explain({"x": policy})[0] for policy in policies)
        assert own["compute_s"] == run["compute_s"]
        stored = narrow.weight.bits
        assert (own["memory_s"] < run["memory_s"]) == (stored < fused)
        assert (own["energy_j"] < run["energy_j"]) == (stored < fused)
        assert own["latency_s"] <= run["latency_s"]


def test_traffic_that_bounds_a_layer_falls_with_the_stored_bits(device: Device) -> None:
    layer = conv(4096, 4096, 1, 1, kind="linear")
    table = build_table(device, (layer,), {"x": [of_bits(w, 8) for w in range(1, 9)]})
    latency = table.values["latency_s"][0]
    weight_cycles = 4096 * 4096 / 192  # of one bit of every weight; the rest of the traffic is the same for all
    assert np.diff(latency) * device.clock_hz == pytest.approx(weight_cycles, rel=0.02)


def test_a_file_that_widens_a_code_to_another_mode_moves_what_it_runs_as(device: Device) -> None:
    text = device.to_toml().replace('int1 = "int2"', 'int1 = "int4"', 1)
    assert text != device.to_toml()
    policies = (of_bits(1, 8), of_bits(4, 8))
    table = build_table(parse_device(text), (conv(64, 64, 3, 16),), {"x": policies})
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


def test_groups_run_one_after_the_other(device: Device) -> None:
    choice = of_bits(8, 8)
    whole = cost_policy(device, (conv(64, 64, 3, 8, groups=4),), {"x": choice})
    part = cost_policy(device, (conv(16, 16, 3, 8),), {"x": choice})
    assert whole["latency_s"] == pytest.approx(4 * part["latency_s"])
    assert whole["energy_j"] == pytest.approx(4 * part["energy_j"])


@pytest.mark.parametrize(("key", "message"), [("core_pj_per_cycle", "core_pj_per_cycle"), ("bits_per_cycle", "needs bits_per_cycle")])
def test_a_device_that_lacks_a_number_says_which(device: Device, key: str, message: str) -> None:
    kept = [line for line in device.to_toml().splitlines() if not line.startswith(f"{key} ")]
    with pytest.raises(InputError, match=message):
        array_of(parse_device("\n".join(kept)))


def test_a_device_that_lacks_a_buffer_says_which(device: Device) -> None:
    text = device.to_toml().replace('name = "weight_buffer"', 'name = "pantry"')
    with pytest.raises(InputError, match=r"memory level 'weight_buffer' .* levels: dram, activation_buffer, pantry, output_buffer"):
        array_of(parse_device(text))
