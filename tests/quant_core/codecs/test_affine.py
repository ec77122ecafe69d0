"""The ceiling of a scale: the largest multiple is finite, and nothing below it is cut off."""

import pytest
import torch

from quant_core.codecs.affine import integer_range, scale_ceiling
from quant_core.codecs.quantize import fake_quantize
from quant_core.codecs.scales import FLOAT_MAX
from quant_core.spec.quant_spec import parse


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(1, 17))
def test_the_largest_multiple_of_the_ceiling_is_just_finite(bits: int, signed: bool) -> None:
    low, high = integer_range(parse(f"int{bits}"), signed)
    largest = torch.tensor(scale_ceiling(parse(f"int{bits}"), signed), dtype=torch.float32) * max(-low, high + 1)
    assert torch.isfinite(largest)
    assert float(largest) == pytest.approx(FLOAT_MAX, rel=2e-6)


@pytest.mark.parametrize("bits", range(2, 17))
def test_the_lowest_code_of_a_range_near_the_largest_float_is_finite_and_near(bits: int) -> None:
    """A range that ends just below the largest float: without the ceiling, -2^(bits-1) steps of it are infinite."""
    half = 2 ** (bits - 1)
    end = torch.tensor(FLOAT_MAX * (half - 1) / (half - 0.25))
    x = torch.tensor([[-FLOAT_MAX, 0.0]])
    lowest = float(fake_quantize(x, f"int{bits}", bounds=(-end, end))[0, 0])
    assert lowest == pytest.approx(-FLOAT_MAX, rel=2e-6)


@pytest.mark.parametrize("text", ["int4:tensor", "int4:channel", "int4:group16:fp32", "int4:vector16"])
def test_the_largest_float_is_kept_by_formats_that_measure_their_range(text: str) -> None:
    x = torch.zeros(1, 32)
    x[0, 0], x[0, 16] = -FLOAT_MAX, -FLOAT_MAX
    assert float(fake_quantize(x, text)[0, 0]) == pytest.approx(-FLOAT_MAX, rel=0.01)
