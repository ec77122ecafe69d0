import pytest

from hw_models.device import DeviceError
from hw_models.loading import parse_device
from hw_models.table import cost_policy
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import parse

CONV = Layer("a", "conv", 4, 8, (8, 4, 3, 3), (8, 8), (8, 8), 8 * 8 * 8 * 4 * 9, (3, 3), (1, 1), (1, 1))


def choice(weight: str, activation: str) -> LayerPolicy:
    return LayerPolicy(parse(weight), parse(activation))


def test_a_model_in_cycles_needs_a_clock(toy: str) -> None:
    device = parse_device(toy.replace("clock_hz = 1e6\n", ""))
    with pytest.raises(DeviceError, match=r"\[identity\] has no clock_hz, which kind 'bitserial' needs"):
        cost_policy(device, (CONV,), {"a": choice("int4", "int8")})
