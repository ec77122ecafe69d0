import json
from pathlib import Path

import pytest

from hw_models.device import Device
from hw_models.loading import load_device, parse_device
from hw_models.models.mcu import McuCompute
from hw_models.shapes import layer_of
from hw_models.table import cost_policy
from hw_models.validation.run import validate
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError

LAYER = layer_of({"index": "a", "kind": "conv", "in_channels": "10", "out_channels": "20", "kernel": "3", "in_size": "16"})


def cost(device: Device, weight: str, activation: str) -> dict[str, float]:
    return cost_policy(device, (LAYER,), {"a": LayerPolicy(parse(weight), parse(activation))})


def test_mcu_latency_is_macs_outputs_and_weight_bytes_at_their_rates() -> None:
    device = load_device("stm32h743-cmsis-nn")
    rates = device.compute_as(McuCompute)
    rest = LAYER.out_elements * rates.ns_per_output + LAYER.weights * rates.ns_per_weight_byte
    assert cost(device, "int8", "int8")["latency_s"] == pytest.approx((LAYER.macs * rates.ms_per_mmac + rest) * 1e-9, rel=1e-12)
    depthwise = layer_of({"index": "a", "kind": "depthwise", "in_channels": "8", "out_channels": "8", "kernel": "3", "in_size": "16"})
    assert rates.depthwise_ms_per_mmac is not None
    own = depthwise.macs * rates.depthwise_ms_per_mmac + depthwise.out_elements * rates.ns_per_output + 72 * rates.ns_per_weight_byte
    choice = {"a": LayerPolicy(parse("int8"), parse("int8"))}
    assert cost_policy(device, (depthwise,), choice)["latency_s"] == pytest.approx(own * 1e-9, rel=1e-12)


def test_sub_byte_codes_save_memory_and_no_time_on_an_int8_engine() -> None:
    device = load_device("stm32h743-tinyengine")
    assert cost(device, "int4", "int4")["latency_s"] == cost(device, "int8", "int8")["latency_s"]
    assert cost(device, "int4", "int4")["weight_bytes"] < cost(device, "int8", "int8")["weight_bytes"]
    assert cost(device, "int4", "int4")["peak_activation_bytes"] == cost(device, "int8", "int8")["peak_activation_bytes"] / 2
    with pytest.raises(InputError, match="layer 'a'"):
        cost(device, "float", "float")


def test_an_engine_file_may_state_faster_sub_byte_kernels() -> None:
    text = load_device("stm32h743-tinyengine").to_toml()
    text = text.replace('int1-7 = "int8"', 'int1-3 = "int4", int5-7 = "int8"').replace('["int8"]', '["int4", "int8"]')
    device = parse_device(text.replace("[constraints]", '[compute.pair_ms_per_mmac]\n"int4/int4" = 2.0\n\n[constraints]'))
    rates = device.compute_as(McuCompute)
    rest = LAYER.out_elements * rates.ns_per_output
    assert rates.ns_per_weight_byte == 0.0
    assert cost(device, "int3", "int2")["latency_s"] == pytest.approx((LAYER.macs * 2 + rest) * 1e-9, rel=1e-12)
    assert cost(device, "int4", "int8")["latency_s"] == pytest.approx((LAYER.macs * rates.ms_per_mmac + rest) * 1e-9, rel=1e-12)


def test_mcu_energy_is_power_times_latency() -> None:
    totals = cost(load_device("nucleo-u575zi-q"), "int8", "int8")
    assert totals["energy_j"] == pytest.approx(0.026 * totals["latency_s"], rel=1e-12)
    assert "energy_j" not in cost(load_device("stm32h743-cmsis-nn"), "int8", "int8")


def test_a_fit_says_how_well_it_predicts_what_it_was_not_fitted_to(golden: Path) -> None:
    published = json.loads((golden / "published.json").read_text())["mlperf_tiny_v1_1_int8"]["nucleo_h7a3zi_q"]
    errors = []
    for left_out in range(4):
        ratio = [ms / uj for n, (ms, uj) in enumerate(zip(published["ms"], published["uj"], strict=True)) if n != left_out]
        factor = sum(ratio) / sum(r**2 for r in ratio)
        errors.append(abs(factor * published["ms"][left_out] / published["uj"][left_out] - 1))
    check = validate(load_device("nucleo-h7a3zi-q"))[0]
    assert check.remarks == (f"leave one out (factor fitted to the other points): mean error {25 * sum(errors):.2f} %",)


def test_a_golden_point_without_its_number_is_named() -> None:
    text = load_device("nucleo-l4r5zi").to_toml()
    with pytest.raises(InputError, match=r"point .* has no number 'latency_ms' in `given`"):
        validate(parse_device(text.replace("latency_ms", "latency_us")))
