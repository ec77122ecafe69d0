"""Factors of scales: one per stored scale, in the weight and in what is stored alike."""

import pytest
import torch

from quant_core.codecs.quantize import decode, encode
from quant_core.reconstruct.factors import LARGEST, ScaleFactors
from quant_core.spec.quant_spec import parse

COUNTS = {
    "int4:channel:mse": 6,
    "int4:tensor:mse": 1,
    "int3:group4:mse": 6 * 3,  # of 10 values, the last of 2
    "int4:group4:mse:affine": 6 * 3,
    "int4:vector4": 6,  # the integer scales of the vectors stay
    "kmeans2:tensor": 1,
    "kmeans2:group4": 2,
    "kmeans2:channel": 6,
    "ternary:ttq:channel": 6,
    "nvfp4": 1,
}


@pytest.mark.parametrize(("text", "count"), COUNTS.items())
@pytest.mark.parametrize("axis", [0, 1])
def test_a_factor_per_scale_changes_the_weight_as_it_changes_what_is_stored(text: str, count: int, axis: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 10, generator=generator)
    weight = weight if axis == 0 else weight.T.contiguous()
    spec = parse(text)
    encoded = encode(weight, spec, channel_axis=axis)
    factors = ScaleFactors(encoded, spec, axis)
    assert factors.log is not None
    assert factors.log.numel() == count
    with torch.no_grad():
        factors.log.copy_(torch.linspace(-0.4, 0.6, count).view_as(factors.log))
    values = decode(encoded, spec, tuple(weight.shape), channel_axis=axis)
    stored = decode(factors.within(encoded), spec, tuple(weight.shape), channel_axis=axis)
    assert torch.allclose(factors.on(values), stored, rtol=1e-3, atol=1e-6)  # scales are stored in 16 bits
    assert not torch.allclose(values, stored, rtol=1e-3)


def test_a_factor_has_bounds_and_powers_of_two_have_none() -> None:
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    spec = parse("int4:channel:mse")
    factors = ScaleFactors(encode(weight, spec), spec, 0)
    assert factors.log is not None
    with torch.no_grad():
        factors.log.fill_(50.0)
    assert torch.allclose(factors.on(weight), weight * torch.tensor(LARGEST).exp())
    spec = parse("mxfp4")
    encoded = encode(weight, spec)
    factors = ScaleFactors(encoded, spec, 0)
    assert factors.log is None
    assert factors.on(weight) is weight
    assert factors.within(encoded) is encoded
