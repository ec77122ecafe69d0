"""counts, mcu, mpic, mac_energy: formulas against figures computed here."""

import json
from pathlib import Path

import pytest

from hw_models.device import FOLDER, Device
from hw_models.loading import load_device, parse_device
from hw_models.shapes import layer_of, read_layers
from hw_models.table import cost_policy
from hw_models.validation.run import validate
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import FLOAT, QuantSpec, parse
from quant_core.util.errors import InputError

LAYER = layer_of({"index": "a", "kind": "conv", "in_channels": "10", "out_channels": "20", "kernel": "3", "in_size": "16"})


def cost(device: Device, weight: str, activation: str) -> dict[str, float]:
    return cost_policy(device, (LAYER,), {"a": LayerPolicy(parse(weight), parse(activation))})


def uniform(bits: int, ends: int) -> float:
    """Return the giga bit operations of ResNet-18 at uniform bits, first and last layer at `ends`."""

    def spec(width: int) -> QuantSpec:
        return FLOAT if width == 32 else parse(f"int{width}")

    layers = read_layers(FOLDER / "resnet18-layers.csv")
    policy = {each.name: LayerPolicy(spec(bits), spec(bits)) for each in layers}
    policy |= {each.name: LayerPolicy(spec(ends), spec(ends)) for each in (layers[0], layers[-1])}
    return cost_policy(load_device("counts"), layers, policy)["bit_ops"] / 1e9


def test_resnet18_bit_operations_are_those_of_hawq(golden: Path) -> None:
    published = json.loads((golden / "published.json").read_text())["hawqv3_counts"]["resnet18_bops_g"]
    assert uniform(32, 32) == pytest.approx(published["w32a32"], rel=0.02)
    assert uniform(8, 8) == pytest.approx(published["w8a8"], rel=0.02)
    assert int(uniform(4, 8)) == published["w4a4_first_last_8"]  # printed in whole G: 34.71


def test_mcu_latency_is_macs_times_the_engines_factor() -> None:
    device = load_device("stm32h743-tinyengine")
    assert cost(device, "int8", "int8")["latency_s"] == pytest.approx(LAYER.macs * 4.16e-9, rel=1e-12)
    assert cost(device, "int4", "int4")["latency_s"] == cost(device, "int8", "int8")["latency_s"]
    assert cost(device, "int4", "int4")["weight_bytes"] < cost(device, "int8", "int8")["weight_bytes"]
    assert cost(device, "int4", "int4")["peak_activation_bytes"] == cost(device, "int8", "int8")["peak_activation_bytes"] / 2
    with pytest.raises(InputError, match="layer 'a'"):
        cost(device, "float", "float")


def test_an_engine_file_may_state_faster_sub_byte_kernels() -> None:
    text = load_device("stm32h743-tinyengine").to_toml()
    text = text.replace('int1-7 = "int8"', 'int1-3 = "int4", int5-7 = "int8"').replace('["int8"]', '["int4", "int8"]')
    device = parse_device(text.replace("[constraints]", '[compute.pair_ms_per_mmac]\n"int4/int4" = 2.0\n\n[constraints]'))
    assert cost(device, "int3", "int2")["latency_s"] == pytest.approx(LAYER.macs * 2e-9, rel=1e-12)
    assert cost(device, "int4", "int8")["latency_s"] == pytest.approx(LAYER.macs * 4.16e-9, rel=1e-12)


def test_mcu_energy_is_power_times_latency() -> None:
    found = cost(load_device("nucleo-u575zi-q"), "int8", "int8")
    assert found["energy_j"] == pytest.approx(0.026 * found["latency_s"], rel=1e-12)
    assert "energy_j" not in cost(load_device("stm32h743-cmsis-nn"), "int8", "int8")


def test_a_fit_says_how_well_it_predicts_what_it_was_not_fitted_to(golden: Path) -> None:
    published = json.loads((golden / "published.json").read_text())["mlperf_tiny_v1_1_int8"]["nucleo_h7a3zi_q"]
    errors = []
    for left_out in range(4):
        ratio = [ms / uj for n, (ms, uj) in enumerate(zip(published["ms"], published["uj"], strict=True)) if n != left_out]
        factor = sum(ratio) / sum(each**2 for each in ratio)
        errors.append(abs(factor * published["ms"][left_out] / published["uj"][left_out] - 1))
    check = validate(load_device("nucleo-h7a3zi-q"))[0]
    assert check.remarks == (f"leave one out (factor fitted to the other points): mean error {25 * sum(errors):.2f} %",)


def test_mpic_cycles_are_exact_and_plateaus_cost_as_the_next_code(golden: Path) -> None:
    published = json.loads((golden / "published.json").read_text())["mpic_mac_per_cycle"]
    device = load_device("mpic")
    for a, row in ((a, row) for a, row in published.items() if a.isdigit()):
        for w, rate in row.items():
            found = cost(device, f"int{w}", f"int{a}")
            assert found["latency_s"] == LAYER.macs / rate / published["clock_hz"]
            assert found["energy_j"] == found["latency_s"] * published["active_power_w"]
    assert cost(device, "int3", "int7")["latency_s"] == cost(device, "int4", "int8")["latency_s"]


def test_mpic_refuses_a_legal_pair_without_a_rate() -> None:
    text = load_device("mpic").to_toml().replace('weights = ["int2"', 'weights = ["int16", "int2"')
    with pytest.raises(InputError, match="layer 'a': mpic states no rate for int16/int8; it has int2/int2"):
        cost(parse_device(text), "int16", "int8")


@pytest.mark.parametrize(("w", "a"), [(2, 2), (4, 8), (8, 4), (16, 16)])
def test_mac_energy_is_the_formula_and_every_bit_moves_once(w: int, a: int) -> None:
    device = load_device("horowitz-45nm")
    mac = 0.0029948 * w * a + 0.0010417 * (w + a) / 2 + 0.003125 * (w + a + 8)
    moved = (LAYER.in_elements + LAYER.out_elements) * a * 100 / 64
    weights = parse(f"int{w}").storage_bits(LAYER.weight_shape) * 1300 / 64
    assert cost(device, f"int{w}", f"int{a}")["energy_j"] == pytest.approx((LAYER.macs * mac + moved + weights) * 1e-12, rel=1e-12)


def test_mac_energy_is_near_the_synthesised_arrays(golden: Path) -> None:
    published = json.loads((golden / "published.json").read_text())["mac_energy_synthesised_45nm_pj"]
    for bits in (2, 4, 8, 16):
        mac = 0.0029948 * bits * bits + 0.0010417 * bits + 0.003125 * (2 * bits + 8)
        assert mac == pytest.approx(published[str(bits)], rel=0.151)


def test_mac_energy_needs_the_levels_it_names() -> None:
    text = load_device("horowitz-45nm").to_toml().replace('weights_from = "dram"', 'weights_from = "flash"')
    with pytest.raises(InputError, match="memory level 'flash' with read and write energy is needed; levels: sram_8kb"):
        cost(parse_device(text), "int8", "int8")


def test_a_golden_point_without_its_number_is_named() -> None:
    text = load_device("nucleo-l4r5zi").to_toml()
    with pytest.raises(InputError, match=r"point .* has no number 'latency_ms' in `given`"):
        validate(parse_device(text.replace("latency_ms", "latency_us")))
