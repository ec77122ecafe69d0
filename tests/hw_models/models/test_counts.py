import json
from pathlib import Path

import pytest

from hw_models.device import FOLDER
from hw_models.loading import load_device
from hw_models.shapes import read_layers
from hw_models.table import cost_policy
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import FLOAT, QuantSpec, parse


def uniform(bits: int, ends: int) -> float:
    """Return the giga bit operations of ResNet-18 at uniform bits, first and last layer at `ends`."""

    def spec(width: int) -> QuantSpec:
        return FLOAT if width == 32 else parse(f"int{width}")

    layers = read_layers(FOLDER / "resnet18-layers.csv")
    policy = {layer.name: LayerPolicy(spec(bits), spec(bits)) for layer in layers}
    policy |= {layer.name: LayerPolicy(spec(ends), spec(ends)) for layer in (layers[0], layers[-1])}
    return cost_policy(load_device("counts"), layers, policy)["bit_ops"] / 1e9


def test_resnet18_bit_operations_are_those_of_hawq(golden: Path) -> None:
    published = json.loads((golden / "published.json").read_text())["hawqv3_counts"]["resnet18_bops_g"]
    assert uniform(32, 32) == pytest.approx(published["w32a32"], rel=0.02)
    assert uniform(8, 8) == pytest.approx(published["w8a8"], rel=0.02)
    assert int(uniform(4, 8)) == published["w4a4_first_last_8"]  # printed in whole G: 34.71
