"""MX4, MX6 and MX9 against a slow reference, the theorem of the paper, and its signal-to-noise ratios."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quant_core.codecs.quantize import encode, fake_quantize

MAGNITUDE_BITS = {"mx4": 2, "mx6": 4, "mx9": 7}


def exponent(value: float) -> int:
    return math.frexp(value)[1] - 1 if value else -1000


def reference(row: np.ndarray, m: int) -> np.ndarray:
    """ISCA 2023, section 3: in float64, one pair at a time."""
    values = row.astype(np.float64)
    out = np.zeros_like(values)
    for start in range(0, len(values), 16):
        block = values[start : start + 16]
        shared = max(exponent(np.abs(block).max()), -127)
        for left in range(0, len(block), 2):
            pair = block[left : left + 2]
            tau = int(all(exponent(abs(value)) < shared for value in pair))
            step = 2.0 ** (shared - tau - (m - 1))
            for i, value in enumerate(pair):
                out[start + left + i] = min(max(round(value / step), -(2**m - 1)), 2**m - 1) * step
    return out.astype(np.float32)


def decibels(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(10 * torch.log10((x.double() ** 2).sum() / ((x - y).double() ** 2).sum()))


@pytest.mark.parametrize("name", MAGNITUDE_BITS)
def test_values_are_those_of_the_reference(name: str) -> None:
    generator = torch.Generator().manual_seed(6)
    normal = torch.randn(30, 37, generator=generator)
    bits = torch.randint(-(2**31), 2**31 - 1, (30, 37), generator=generator).to(torch.int32).view(torch.float32)
    powers = 2.0 ** torch.randint(-5, 5, (30, 37), generator=generator).float()
    sets = {
        "normal": normal,
        "bits": bits.nan_to_num(0.0, 1.0, -1.0),
        "below powers": torch.nextafter(powers, torch.zeros(())) * normal.sign(),
        "ties": torch.randint(-256, 256, (30, 37), generator=generator) / 64.0,
        "sparse": normal * (normal > 1),
        "scaled": normal * 2.0 ** torch.linspace(-149, 120, 30).round().reshape(-1, 1),
    }
    for kind, rows in sets.items():
        wanted = torch.from_numpy(np.stack([reference(row, MAGNITUDE_BITS[name]) for row in rows.numpy()]))
        assert torch.equal(fake_quantize(rows, name), wanted), kind


@pytest.mark.parametrize("name", MAGNITUDE_BITS)
def test_values_are_those_of_quark_bit_for_bit(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        where = "quark.torch.kernel.hw_emulation.hw_emulation_interface"
        quark = pytest.importorskip(where, reason="quark is no dependency; pip install amd-quark==0.13 to run this")
    generator = torch.Generator().manual_seed(6)
    bits = torch.randint(-(2**31), 2**31 - 1, (64, 37), generator=generator).to(torch.int32).view(torch.float32).nan_to_num(1.0, 1.0, 1.0)
    for x in (torch.randn(64, 37, generator=generator), bits, (torch.randint(-64, 64, (64, 64), generator=generator) + 0.5) / 16):
        normal = torch.where(x.abs() < 2.0**-126, 0.0, x)  # quark flushes subnormal inputs
        theirs = quark.fake_quantize_mx6_mx9(normal.clone(), axis=-1, block_size=16, quant_bit=MAGNITUDE_BITS[name] + 1, sub_block_size=2)
        assert torch.equal(fake_quantize(normal, name).view(torch.int32), theirs.view(torch.int32))


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (20, 16), elements=st.floats(-(2.0**66), 2.0**66, width=32).filter(lambda v: v == 0 or abs(v) > 1e-15)))
def test_every_block_keeps_the_bound_of_theorem_1(x: np.ndarray) -> None:
    rows = torch.from_numpy(x)
    rows = rows[rows.abs().amax(dim=1) > 0].double()
    for name, m in MAGNITUDE_BITS.items():
        bound = 6.02 * m + 10 * math.log10(4 / (16 + 3 * 2))
        error = ((fake_quantize(rows.float(), name).double() - rows) ** 2).sum(dim=1)
        assert bool((10 * torch.log10((rows**2).sum(dim=1) / error.clamp(min=1e-300)) >= bound).all())


@pytest.mark.parametrize(("name", "published"), [("mx4", 15.78), ("mx6", 28.38), ("mx9", 46.60)])
def test_signal_to_noise_on_the_data_of_the_paper(name: str, published: float) -> None:
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(2000, 256, generator=generator) * torch.randn(2000, 1, generator=generator).abs()
    assert decibels(x, fake_quantize(x, name)) == pytest.approx(published, abs=0.2)


def test_the_parts_of_a_block() -> None:
    encoded = encode(torch.tensor([[4.0, 1.0, 1.0, -1.5] + [0.0] * 13]), "mx4")
    assert encoded.scale is not None
    assert encoded.micro is not None
    assert encoded.scale.tolist() == [[4.0, 2.0**-127]]
    assert encoded.micro.tolist() == [[0, *[1] * 8]]
    assert encoded.codes[0, :4].tolist() == [0b010, 0b000, 0b001, 0b110]
