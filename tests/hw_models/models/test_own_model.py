from pathlib import Path

import pytest

from hw_models.device import DeviceError
from hw_models.loading import parse_device
from hw_models.table import cost_policy
from hw_models.validation.run import validate
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError

CONV = Layer("a", "conv", 4, 8, (8, 4, 3, 3), (8, 8), (8, 8), 8 * 8 * 8 * 4 * 9, (3, 3), (1, 1), (1, 1))


def choice(weight: str, activation: str) -> LayerPolicy:
    return LayerPolicy(parse(weight), parse(activation))


OWN_MODEL = """
import numpy as np
from hw_models.models import LayerCost, Model, compare_points
from hw_models.schema.device_file import Compute

class OwnCompute(Compute):
    seconds_per_bit: float

def build(device):
    seconds = device.compute_as(OwnCompute).seconds_per_bit
    return lambda layer, choices: LayerCost(latency_s=seconds * choices.w_bits.astype(np.float64))

def doubled(device, golden):
    seconds = 2 * device.compute_as(OwnCompute).seconds_per_bit
    return compare_points(golden, [seconds] * len(golden.points))

CHECKS = {"as a function": doubled, "as a path": "own_model_of_this_test:doubled", "astray": "own_model_of_this_test:__name__"}
MODEL = Model(OwnCompute, build, "time follows the weight bits", CHECKS)
"""
OWN_GOLDEN = """
[[golden]]
name = "g"
check = "CHECK"
metric = "latency_s"
unit = "s"
points = [{ name = "p", expected = 1.0 }]
tolerance_mean_percent = 0.0
tolerance_max_percent = 0.0
source = "made-up"
"""


def test_a_users_own_model_is_named_by_its_path(toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_model_of_this_test.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = toy.replace('kind = "bitserial"', 'kind = "own_model_of_this_test:MODEL"')
    with pytest.raises(DeviceError, match=r"compute.seconds_per_bit: needed, but not given") as caught:
        parse_device(text)
    assert "compute.rows: unknown key" in str(caught.value)
    device = parse_device(text.replace("rows = 4\ncols = 4\nword_bits = 64", "seconds_per_bit = 0.5"))
    assert cost_policy(device, (CONV,), {"a": choice("int3:channel", "int8")})["latency_s"] == 0.5 * 4


@pytest.mark.parametrize("check", ["as a function", "as a path"])
def test_a_users_own_model_brings_its_own_golden_checks(toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str) -> None:
    (tmp_path / "own_model_of_this_test.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = toy.replace('kind = "bitserial"', 'kind = "own_model_of_this_test:MODEL"')
    text = text.replace("rows = 4\ncols = 4\nword_bits = 64", "seconds_per_bit = 0.5") + OWN_GOLDEN
    (outcome,) = validate(parse_device(text.replace("CHECK", check)))
    assert (outcome.n, outcome.exact, outcome.passed) == (1, 1, True)
    with pytest.raises(InputError, match="golden check 'astray': 'own_model_of_this_test:__name__' is str; a function of device"):
        validate(parse_device(text.replace("CHECK", "astray")))
