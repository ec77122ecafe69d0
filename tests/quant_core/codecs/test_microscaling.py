"""OCP MX against ml_dtypes (every code), torchao, and a float64 reference written from the specification."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quant_core.codecs.microscaling import ELEMENTS
from quant_core.codecs.minifloat import E2M1, E2M3, E3M2, E4M3, E5M2, Minifloat
from quant_core.codecs.quantize import encode, fake_quantize

ml_dtypes = pytest.importorskip("ml_dtypes", reason="the dev extra holds ml_dtypes")
KINDS = {"float4_e2m1fn": E2M1, "float6_e2m3fn": E2M3, "float6_e3m2fn": E3M2, "float8_e4m3fn": E4M3, "float8_e5m2": E5M2}
NAMES = [*ELEMENTS, "mxint8"]


def data_sets() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    normal = torch.randn(256, 320, generator=generator)
    powers = 2.0 ** torch.randint(-20, 20, (256, 320), generator=generator).float()
    bits = torch.randint(-(2**31), 2**31 - 1, (256, 320), generator=generator).to(torch.int32).view(torch.float32)
    return {
        "normal": normal,
        "scaled rows": normal * 2.0 ** torch.randint(-20, 20, (256, 1), generator=generator).float(),
        "below powers": torch.nextafter(powers, torch.zeros(())) * normal.sign(),
        "ties": torch.randint(-64, 64, (256, 320), generator=generator) / 16.0,
        "bits": bits.nan_to_num(0.0, 1.0, -1.0).clamp(-1e30, 1e30),
    }


def reference(row: np.ndarray, name: str) -> np.ndarray:
    """OCP MX v1.0, sections 5.1 and 6.3, in float64, one value at a time."""
    out = np.zeros_like(row)
    for start in range(0, len(row), 32):
        block = row[start : start + 32].astype(np.float64)
        top = np.abs(block).max()
        emax = ELEMENTS[name].emax if name in ELEMENTS else 0
        scale = 2.0 ** max(-127, (math.frexp(top)[1] - 1 if top else -1000) - emax)
        for i, value in enumerate(block / scale):
            if name == "mxint8":
                element = min(max(round(value * 64), -127), 127) / 64
            else:
                element = math.copysign(reference_element(abs(value), ELEMENTS[name]), value)
            out[start + i] = element * scale
    return out.astype(np.float32)


def reference_element(value: float, kind: Minifloat) -> float:
    exponent = max(math.frexp(value)[1] - 1 if value else -1000, kind.emin)
    step = 2.0 ** (exponent - kind.mantissa)
    return min(round(value / step) * step, kind.largest)


@pytest.mark.parametrize("name", KINDS)
def test_every_code_is_that_of_ml_dtypes(name: str) -> None:
    kind = KINDS[name]
    dtype = np.dtype(getattr(ml_dtypes, name))
    codes = np.arange(2 ** (1 + kind.exponent + kind.mantissa), dtype=np.uint8)
    values = codes.view(dtype).astype(np.float32)
    finite = np.isfinite(values)
    ours = kind.decode(torch.from_numpy(codes)).numpy()
    assert np.array_equal(ours[finite].view(np.int32), values[finite].view(np.int32))
    again = kind.encode(torch.from_numpy(values[finite].astype(np.float64)))
    assert np.array_equal(again.numpy(), codes[finite])
    assert kind.largest == float(ml_dtypes.finfo(dtype).max)


@pytest.mark.parametrize("name", KINDS)
def test_casts_are_those_of_ml_dtypes(name: str) -> None:
    kind = KINDS[name]
    x = torch.cat([data.flatten() for data in data_sets().values()]).clamp(-kind.largest, kind.largest)
    grid = torch.linspace(-kind.largest, kind.largest, 40_001)
    for values in (x, grid, x * kind.largest / 4):
        clipped = values.clamp(-kind.largest, kind.largest)
        theirs = clipped.numpy().astype(np.dtype(getattr(ml_dtypes, name))).astype(np.float32)
        ours = kind.decode(kind.encode(clipped.double())).numpy()
        assert np.array_equal(ours.view(np.int32), theirs.view(np.int32))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", ["normal", "below powers", "ties", "bits"])
def test_values_are_those_of_the_specification(name: str, data: str) -> None:
    rows = data_sets()[data][:12, :75]
    wanted = np.stack([reference(row, name) for row in rows.numpy()])
    assert torch.equal(fake_quantize(rows, name), torch.from_numpy(wanted))


@pytest.mark.parametrize("name", sorted(ELEMENTS))
@pytest.mark.parametrize("data", sorted(data_sets()))
def test_values_are_those_of_torchao_bit_for_bit(name: str, data: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torchao", reason="torchao is no dependency; pip install torchao==0.18.0 to run this")
        from torchao.prototype.mx_formats import constants, mx_tensor
    kinds = {
        "mxfp4": torch.float4_e2m1fn_x2,
        "mxfp6e2m3": constants.DTYPE_FP6_E2M3,
        "mxfp6e3m2": constants.DTYPE_FP6_E3M2,
        "mxfp8e4m3": torch.float8_e4m3fn,
        "mxfp8e5m2": torch.float8_e5m2,
    }
    x = data_sets()[data]
    blocks = x.reshape(-1, 32)
    x = torch.where(blocks.abs().amax(dim=1, keepdim=True) >= 2.0**-105, blocks, torch.zeros(())).reshape(x.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scale, elements = mx_tensor.to_mx(x, kinds[name], 32)
        theirs = mx_tensor.to_dtype(elements, scale, kinds[name], 32, torch.float32)
    assert torch.equal(fake_quantize(x, name).view(torch.int32), theirs.view(torch.int32))


def test_saturation_ties_and_signed_zero() -> None:
    x = torch.tensor([[7.99, 6.0, 5.0, -7.0, -0.0]])
    y = fake_quantize(x, "mxfp4")
    assert y.tolist() == [[6.0, 6.0, 4.0, -6.0, -0.0]]
    assert bool(torch.signbit(y[0, 4]))
    ties = torch.tensor([[0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 4.0]])
    assert fake_quantize(ties, "mxfp4").tolist() == [[0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]]
    assert encode(torch.zeros(1, 3), "mxfp4").scale.item() == 2.0**-127  # type: ignore[union-attr]


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=40), st.sampled_from(NAMES))
def test_quantizing_twice_changes_nothing_where_nothing_saturates(values: list[float], name: str) -> None:
    x = torch.tensor([values])
    once = fake_quantize(x, name)
    assert float((once - x).abs().max()) <= float(x.abs().max())
    again = fake_quantize(once, name)
    same_scale = encode(once, name).scale
    if torch.equal(same_scale, encode(x, name).scale):  # type: ignore[arg-type]
        assert torch.equal(again, once)


def test_stochastic_rounding_is_unbiased_between_two_values() -> None:
    x = torch.full((1, 64_000), 2.2)
    x[0, ::32] = 4.0
    y = fake_quantize(x, "mxfp4:stochastic", generator=torch.Generator().manual_seed(0))
    drawn = y[x == 2.2]
    assert set(drawn.unique().tolist()) == {2.0, 3.0}
    assert abs(float(drawn.mean()) - 2.2) < 5 * (0.2 * 0.8 / drawn.numel()) ** 0.5
