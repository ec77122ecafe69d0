"""Clipping against dense sweeps, analytic constants and slow references."""

import numpy as np
import pytest
import torch
from torch import Tensor

from quant_core import QuantSpec, parse
from quant_core.clipping import ranges

GAUSS = {2: 1.73884, 3: 2.16112, 4: 2.56209, 6: 3.28716, 8: 3.92405}
LAPLACE = {2: 2.87373, 3: 3.91329, 4: 5.03409, 6: 7.41366, 8: 9.89681}


def _error(x: Tensor, scale: Tensor, zero: Tensor, low: float, high: float) -> Tensor:
    """Squared error [B] of x [B, n] quantized with scale and zero point [B]; written anew, in float64."""
    x, s, z = x.double(), scale.double()[:, None], zero.double()[:, None]
    codes = (torch.round(x / s) + z).clamp(low, high)
    return ((codes - z) * s - x).square().sum(dim=1)


def _symmetric_error(x: Tensor, ends: Tensor, bits: int) -> Tensor:
    scale = ends.clamp_min(1e-20) / max(1, 2 ** (bits - 1) - 1)
    return _error(x, scale, torch.zeros_like(scale), -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)


def _affine_error(x: Tensor, lo: Tensor, hi: Tensor, bits: int) -> Tensor:
    scale = (hi - lo).clamp_min(1e-20) / (2**bits - 1)
    return _error(x, scale, torch.round(-lo / scale), 0.0, 2.0**bits - 1)


def _samples(kind: str, rows: int, n: int) -> Tensor:
    rng = np.random.default_rng(n)
    draw = {"gauss": rng.normal, "laplace": rng.laplace, "heavy": lambda size: rng.standard_t(3, size), "relu": rng.exponential}[kind]
    return torch.tensor(draw(size=(rows, n)), dtype=torch.float32)


@pytest.mark.parametrize("kind", ["gauss", "laplace", "heavy", "relu"])
@pytest.mark.parametrize("n", [16, 300, 4096])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_mse_is_as_good_as_a_dense_sweep(kind: str, n: int, bits: int) -> None:
    x = _samples(kind, 8, n)
    top = x.abs().amax(dim=1)
    dense = torch.stack([_symmetric_error(x, top * i / 400, bits) for i in range(1, 401)]).amin(dim=0)
    _, hi = ranges(x, parse(f"int{bits}:channel:mse"))
    assert (_symmetric_error(x, hi, bits) <= 1.001 * dense).all()


@pytest.mark.parametrize("kind", ["gauss", "laplace", "heavy", "relu"])
@pytest.mark.parametrize("n", [16, 300, 4096])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_affine_mse_is_as_good_as_a_dense_sweep_of_both_ends(kind: str, n: int, bits: int) -> None:
    x = _samples(kind, 4, n) + 0.3
    low, high = x.amin(dim=1).clamp_max(0), x.amax(dim=1).clamp_min(0)
    dense = torch.stack(
        [_affine_error(x, low * i / 30, high * j / 30, bits) for i in range(31) for j in range(31) if i or (j and float(high.min()))]
    )
    lo, hi = ranges(x, parse(f"int{bits}:channel:mse:affine"))
    assert (lo <= 0).all()
    assert (hi >= 0).all()
    assert (_affine_error(x, lo, hi, bits) <= 1.001 * dense.amin(dim=0)).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_octav_reaches_its_analytic_fixed_point(bits: int) -> None:
    quantiles = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    gauss = torch.special.ndtri(quantiles).float()
    laplace = torch.where(quantiles < 0.5, torch.log(2 * quantiles), -torch.log(2 - 2 * quantiles)).float()
    lo, hi = ranges(torch.stack([gauss, laplace]), parse(f"int{bits}:channel:octav"))
    assert hi.tolist() == pytest.approx([GAUSS[bits], LAPLACE[bits]], rel=5e-3)
    assert torch.equal(lo, -hi)


@pytest.mark.parametrize("clipping", ["minmax", "ema", "percentile", "mse", "octav", "kl"])
@pytest.mark.parametrize("affine", ["", ":affine"])
def test_degenerate_blocks(clipping: str, affine: str) -> None:
    spec = parse(f"int4:channel:{clipping}{affine}")
    rows = torch.tensor([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0], [-2.0, -2.0, -2.0], [1e-40, 0.0, -1e-40], [0.0, 0.0, 3.0]])
    lo, hi = ranges(rows, spec)
    assert torch.isfinite(lo).all()
    assert torch.isfinite(hi).all()
    assert (lo <= 0).all()
    assert (hi >= 0).all()
    assert (lo[0], hi[0]) == (0, 0)
    assert ranges(torch.zeros(0, 4), spec)[0].shape == (0,)
    assert ranges(torch.zeros(3, 0), spec)[1].tolist() == [0, 0, 0]


def test_percentile_takes_the_nearest_rank() -> None:
    x = torch.arange(1, 100_001, dtype=torch.float32)[None]
    spec = QuantSpec(format="int", bits=8, granularity="tensor", clipping="percentile", scale="fp32")
    assert ranges(x, spec)[1].item() == 99_990
