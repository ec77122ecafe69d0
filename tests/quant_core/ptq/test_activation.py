"""Activation quantizers against torch's kernels and the weight quantizer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quant_core import InputError, Policy, parse, parse_layer_policy
from quant_core.codecs.quantize import fake_quantize
from quant_core.network.statistics import TensorStatistics
from quant_core.ptq.activation import ActivationQuantizer, range_qparams, ranges_whole_batches, to_grid


def _statistics(*batches: Tensor) -> TensorStatistics:
    statistics = TensorStatistics("layer")
    for batch in batches:
        statistics.update(batch)
    return statistics


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([(3,), (2, 5, 4, 4), (1, 600_000), ()]),
    scale=st.floats(1e-6, 1e6),
    bits=st.integers(1, 8),
    zero=st.integers(0, 255),
    transposed=st.booleans(),
)
def test_grid_has_the_bits_of_torchs_kernel(shape: tuple[int, ...], scale: float, bits: int, zero: int, transposed: bool) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(bits)) * scale * 2**bits
    x = x.movedim(0, -1) if transposed and shape else x
    top = 2**bits - 1
    zero = min(zero, top)
    scale = float(torch.tensor(scale))
    expected = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, top)
    assert torch.equal(to_grid(x, scale, zero, 0, top), expected)


def test_sign_follows_the_observed_range() -> None:
    signed, unsigned = _statistics(torch.tensor([-2.0, 3.0])), _statistics(torch.tensor([0.0, 3.0]))
    x = torch.tensor([-5.0, -0.4, 0.0, 1.0, 2.0, 9.0])
    for statistics, low, high, scale in ((signed, -8, 7, 3 / 7), (unsigned, 0, 15, 3 / 15)):
        quantized = ActivationQuantizer(parse("int4:tensor"), statistics)(x)
        expected = torch.fake_quantize_per_tensor_affine(x, scale, 0, low, high)
        torch.testing.assert_close(quantized, expected)
    affine = ActivationQuantizer(parse("int4:tensor:affine"), signed)(x)
    torch.testing.assert_close(affine, torch.fake_quantize_per_tensor_affine(x, 5 / 15, 6, 0, 15))


def test_dynamic_takes_each_batchs_own_range() -> None:
    quantizer = ActivationQuantizer(parse("int8:tensor:dynamic"), None)
    for factor in (1.0, 100.0):
        x = torch.rand(4, 9) * factor
        torch.testing.assert_close(quantizer(x), torch.fake_quantize_per_tensor_affine(x, float(x.max()) / 255, 0, 0, 255))
    clipped = ActivationQuantizer(parse("int4:tensor:mse:dynamic"), None)
    x = torch.randn(10_000)
    assert (clipped(x) - x).square().mean() < 0.7 * (ActivationQuantizer(parse("int4:tensor:dynamic"), None)(x) - x).square().mean()


@pytest.mark.parametrize("text", ["mxfp4", "nvfp4", "mx9", "int8:token", "int4:group8", "int4:vector4"])
def test_blocks_and_tokens_run_along_the_channels(text: str) -> None:
    x = torch.randn(2, 24, 5, 3)
    spec = parse(text)
    rows = x.permute(0, 2, 3, 1).reshape(-1, 24)
    expected = fake_quantize(rows, spec).reshape(2, 5, 3, 24).permute(0, 3, 1, 2)
    assert torch.equal(ActivationQuantizer(spec, None, channel_axis=-3)(x), expected)
    tokens = torch.randn(2, 7, 24)
    assert torch.equal(ActivationQuantizer(spec, None)(tokens), fake_quantize(tokens.reshape(-1, 24), spec).reshape(2, 7, 24))


@pytest.mark.parametrize("clipping", ["minmax", "ema", "percentile", "mse", "octav", "kl"])
@pytest.mark.parametrize("affine", ["", ":affine"])
def test_degenerate_statistics_give_finite_grids(clipping: str, affine: str) -> None:
    spec = parse(f"int4:tensor:{clipping}{affine}")
    for batch in (torch.zeros(3), torch.full((4,), 2.0), torch.full((4,), -2.0), torch.tensor([1e-40, -1e-40])):
        x = torch.tensor([-1.0, 0.0, 2.0])
        quantizer = ActivationQuantizer(spec, _statistics(batch))
        quantized = quantizer(x)
        assert torch.isfinite(quantized).all()
        assert quantized[1] == 0
        torch.testing.assert_close(quantizer(batch), batch)
    assert range_qparams(0.0, 0.0, spec)[0] > 0


def test_nan_stays_visible() -> None:
    quantizer = ActivationQuantizer(parse("int4:tensor"), _statistics(torch.ones(2)))
    assert quantizer(torch.tensor([torch.nan, 1.0])).isnan().tolist() == [True, False]


def test_refusals() -> None:
    with pytest.raises(InputError, match="one range per channel cannot be taken out of a layer's sum; use tensor or token"):
        ActivationQuantizer(parse("int8:channel"), None)
    with pytest.raises(InputError, match="it is static, but there are no calibration statistics; write int8:tensor:dynamic"):
        ActivationQuantizer(parse("int8:tensor"), None)


@settings(max_examples=60, deadline=None)
@given(text=st.sampled_from(["int8", "int4:affine", "int3:mse", "int8:ema", "int1"]), top=st.floats(1e-20, 1e30), seed=st.integers(0, 99))
def test_a_measured_grid_has_the_bits_of_torchs_kernel_on_ties_too(text: str, top: float, seed: int) -> None:
    x = torch.randn(400, generator=torch.Generator().manual_seed(seed)) * top
    quantizer = ActivationQuantizer(parse(text), _statistics(x))
    assert quantizer.static is not None
    ties = (torch.arange(-300, 300) + 0.5) * quantizer.static[0]
    for values in (x, ties):
        assert torch.equal(quantizer(values), torch.fake_quantize_per_tensor_affine(values, *quantizer.static))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_rounded_in_float32(dtype: torch.dtype) -> None:
    x = (torch.randn(64, 32, generator=torch.Generator().manual_seed(0)) * 50).to(dtype)
    quantizer = ActivationQuantizer(parse("int8"), _statistics(x))
    assert torch.equal(quantizer(x), quantizer(x.float()).to(dtype))
    largest = torch.tensor([torch.finfo(torch.float16).max, -1.0], dtype=torch.float16)
    assert torch.isfinite(ActivationQuantizer(parse("int4:affine"), _statistics(largest))(largest)).all()


@pytest.mark.parametrize(
    "text", ["int8:dynamic", "int4:affine:mse:dynamic", "int8:octav:dynamic", "int8:kl:dynamic", "int8:token", "mxfp4"]
)
def test_empty_scalar_and_largest_inputs_are_defined(text: str) -> None:
    quantizer = ActivationQuantizer(parse(text), None)
    assert quantizer(torch.empty(0, 8)).shape == (0, 8)
    assert float(quantizer(torch.tensor(1.5))) == pytest.approx(1.5, rel=0.01)
    assert torch.isfinite(quantizer(torch.tensor([[3.4e38, -3.4e38, 1.0, 0.0]]))).all()


WHOLE = {"int8:tensor:dynamic", "nvfp4", "kmeans4:tensor", "int4:vector16:tensor"}


@pytest.mark.parametrize("text", ["float", "int8:tensor:mse", "int8:token", "int4:group4", "int4:vector16", "mx6", "mxfp4", *sorted(WHOLE)])
def test_whether_a_batch_must_stay_whole_is_what_its_parts_show(text: str) -> None:
    policy = Policy({"layer": parse_layer_policy(f"activation={text}")})
    assert ranges_whole_batches(policy) == (text in WHOLE)
    x = torch.randn(4, 16) * torch.tensor([1.0, 30.0, 0.01, 4.0])[:, None]
    quantize = ActivationQuantizer(parse(text), _statistics(x)) if text != "float" else torch.clone
    parts = torch.cat([quantize(part) for part in x.split(2)])
    assert torch.equal(parts, quantize(x)) == (text not in WHOLE)
