"""The linear grid: torch is the oracle."""

import pytest
import torch

from quant_core.codecs.affine import integer_range, scale_ceiling
from quant_core.codecs.quantize import encode, fake_quantize, fake_quantize_affine
from quant_core.codecs.scales import FLOAT_MAX
from quant_core.spec.quant_spec import parse


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def hard_values() -> torch.Tensor:
    """Normal values, ties of the grid, random finite bit patterns."""
    generator = torch.Generator().manual_seed(11)
    normal = torch.randn(6, 5000, generator=generator)
    ties = (torch.randint(-300, 300, (6, 5000), generator=generator) + 0.5) * 0.037
    bits = torch.randint(-(2**31), 2**31 - 1, (6, 5000), generator=generator).to(torch.int32).view(torch.float32)
    return torch.cat([normal, ties, bits[:, :2000].nan_to_num(0.0, 1.0, -1.0).clamp(-1e9, 1e9)], dim=1)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_given_scales_agree_with_torch_bit_for_bit(bits: int) -> None:
    x = hard_values()
    for low, high, zero in ((-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0), (0, 2**bits - 1, 2 ** (bits - 1) - 1)):
        per_tensor = torch.fake_quantize_per_tensor_affine(x, 0.037, zero, low, high)
        assert torch.equal(fake_quantize_affine(x, 0.037, zero, low, high), per_tensor)
        scales, zeros = torch.rand(6, generator=seeded()) + 0.01, torch.full((6,), zero, dtype=torch.int32)
        per_channel = torch.fake_quantize_per_channel_affine(x, scales, zeros, 0, low, high)
        assert torch.equal(fake_quantize_affine(x, scales, zeros, low, high), per_channel)
        last = torch.fake_quantize_per_channel_affine(x.t().contiguous(), scales, zeros, 1, low, high)
        assert torch.equal(fake_quantize_affine(x.t(), scales, zeros, low, high, channel_axis=1), last)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_symmetric_specs_agree_with_torch_bit_for_bit(bits: int) -> None:
    x = hard_values().clamp(-100, 100)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scale = x.abs().max() / max(1, high)
    assert torch.equal(fake_quantize(x, f"int{bits}:tensor"), torch.fake_quantize_per_tensor_affine(x, float(scale), 0, low, high))
    scales, zeros = x.abs().amax(dim=1) / max(1, high), torch.zeros(6, dtype=torch.int32)
    assert torch.equal(fake_quantize(x, f"int{bits}:channel"), torch.fake_quantize_per_channel_affine(x, scales, zeros, 0, low, high))
    grouped = x[:, :9984].reshape(-1, 128)
    scales, zeros = grouped.abs().amax(dim=1) / max(1, high), torch.zeros(len(grouped), dtype=torch.int32)
    wanted = torch.fake_quantize_per_channel_affine(grouped, scales, zeros, 0, low, high).reshape(6, -1)
    assert torch.equal(fake_quantize(x[:, :9984], f"int{bits}:group128:fp32"), wanted)


def test_affine_specs_agree_with_the_observer_of_torch() -> None:
    x = hard_values().clamp(-3, 5)
    lo, hi = x.amin(dim=1), x.amax(dim=1)
    scales = (hi - lo) / 255
    zeros = (0 - torch.round(lo / scales)).clamp(0, 255).to(torch.int32)
    assert torch.equal(fake_quantize(x, "int8:channel:affine"), torch.fake_quantize_per_channel_affine(x, scales, zeros, 0, 0, 255))
    encoded = encode(x, "int8:channel:affine")
    assert encoded.zero_point is not None
    assert encoded.scale is not None
    integers = (torch.round(x * (1 / scales).unsqueeze(1)) + zeros.unsqueeze(1)).clamp(0, 255)
    assert torch.equal(encoded.codes.float(), integers)
    assert torch.equal(encoded.scale.flatten(), scales)
    assert torch.equal(encoded.zero_point.flatten().int(), zeros)


@pytest.mark.parametrize("bits", range(1, 17))
def test_the_largest_bounds_keep_values_finite(bits: int) -> None:
    largest = torch.finfo(torch.float32).max
    x = torch.tensor([[largest, -largest, 0.0, 1.0]])
    for text in (f"int{bits}", f"int{bits}:affine"):
        assert torch.isfinite(fake_quantize(x, text, bounds=(torch.tensor(0.0), torch.tensor(largest)))).all()


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
