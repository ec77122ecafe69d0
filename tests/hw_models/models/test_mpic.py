import json
from pathlib import Path

import pytest

from hw_models.device import Device
from hw_models.loading import load_device, parse_device
from hw_models.shapes import layer_of
from hw_models.table import cost_policy
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError

LAYER = layer_of({"index": "a", "kind": "conv", "in_channels": "10", "out_channels": "20", "kernel": "3", "in_size": "16"})


def cost(device: Device, weight: str, activation: str) -> dict[str, float]:
    return cost_policy(device, (LAYER,), {"a": LayerPolicy(parse(weight), parse(activation))})


def test_mpic_cycles_are_exact_and_plateaus_cost_as_the_next_code(golden: Path) -> None:
    published = json.loads((golden / "published.json").read_text())["mpic_mac_per_cycle"]
    device = load_device("mpic")
    for a, row in ((a, row) for a, row in published.items() if a.isdigit()):
        for w, rate in row.items():
            totals = cost(device, f"int{w}", f"int{a}")
            assert totals["latency_s"] == LAYER.macs / rate / published["clock_hz"]
            assert totals["energy_j"] == totals["latency_s"] * published["active_power_w"]
    assert cost(device, "int3", "int7")["latency_s"] == cost(device, "int4", "int8")["latency_s"]


def test_mpic_refuses_a_legal_pair_without_a_rate() -> None:
    text = load_device("mpic").to_toml().replace('weights = ["int2"', 'weights = ["int16", "int2"')
    with pytest.raises(InputError, match="layer 'a': mpic states no rate for int16/int8; it has int2/int2"):
        cost(parse_device(text), "int16", "int8")
