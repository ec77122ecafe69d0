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
