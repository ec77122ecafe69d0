"""Clipping against dense sweeps, analytic constants and slow references."""

import fractions
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quant_core import QuantSpec, parse
from quant_core.clipping import from_statistics, ranges
from quant_core.clipping.divergence import histogram, thresholds
from quant_core.network.statistics import TensorStatistics

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


@pytest.mark.parametrize(("block", "n"), [("group", 16), ("group", 32), ("group", 128), ("vector", 9), ("vector", 16)])
@pytest.mark.parametrize("bits", [5, 6, 8])
def test_mse_looks_above_the_largest_value_of_short_blocks(block: str, n: int, bits: int) -> None:
    x = _samples("gauss", 30, n)
    top = x.abs().amax(dim=1)
    dense = torch.stack([_symmetric_error(x, top * i / 4000, bits) for i in range(1200, 8001, 4)]).amin(dim=0)
    _, hi = ranges(x, parse(f"int{bits}:{block}{n}:mse"))
    ratio = _symmetric_error(x, hi, bits) / dense
    assert ratio.mean() < 1.005
    assert ratio.max() < 1.1


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


@pytest.mark.parametrize("n", [9, 16, 32])
@pytest.mark.parametrize("bits", [5, 8])
def test_affine_mse_looks_beyond_the_ends_of_short_blocks(n: int, bits: int) -> None:
    x, levels = _samples("gauss", 12, n), 2**bits - 1
    low, high = x.amin(dim=1).clamp_max(0), x.amax(dim=1).clamp_min(0)
    dense = torch.full((12,), float("inf"))
    for fraction in torch.linspace(0.6, 1.7, 400):
        scale = (high - low) / levels * fraction
        for shift in range(-2, 3):
            zero = ((-low / scale).round() + shift).clamp(0, levels)
            dense = torch.minimum(dense, _affine_error(x, -zero * scale, (levels - zero) * scale, bits))
    lo, hi = ranges(x, parse(f"int{bits}:group{n}:mse:affine"))
    assert (_affine_error(x, lo, hi, bits) / dense).mean() < 1.01


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
    for count in (5_000, 15_000, 35_000, 45_000):  # 0.9999 n + 1/2 is an integer, which a product of floats may miss
        exact = math.floor(fractions.Fraction(9999, 10_000) * count + fractions.Fraction(1, 2))
        ranked = torch.arange(1, count + 1, dtype=torch.float32)[None]
        assert ranges(ranked, spec)[1].item() == exact


def _slow_kl(counts: np.ndarray, levels: int) -> int:
    """TensorRT's search, written out bin by bin; returns the number of bins kept."""
    counts = counts.astype(np.float64).copy()
    counts[0] = counts[1]
    best, least = len(counts), np.inf
    for i in range(max(levels, len(counts) // 16), len(counts) + 1):
        p, q = counts[:i].copy(), np.zeros(i)
        p[-1] += counts[i:].sum()
        if counts[:i].sum() <= 9 * counts[i:].sum():
            continue
        level = np.floor(np.arange(i) * levels / i).astype(int)
        for k in range(levels):
            filled = (level == k) & (counts[:i] > 0)
            if filled.any():
                q[filled] = counts[:i][level == k].sum() / filled.sum()
        if (q[p > 0] == 0).any():
            continue
        p, q = p / p.sum(), q / q.sum()
        divergence = float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())
        if divergence <= least + 1e-12:
            best, least = i, divergence
    return best


@pytest.mark.parametrize("kind", ["gauss", "laplace", "heavy", "relu"])
@pytest.mark.parametrize("levels", [8, 128])
def test_kl_is_tensorrts_search_written_out(kind: str, levels: int) -> None:
    magnitudes = _samples(kind, 1, 20_000).abs().numpy()
    counts, _ = np.histogram(magnitudes, 300, (0.0, float(magnitudes.max())))
    actual = thresholds(counts[None].astype(np.float64), np.array([1.0]), levels)
    assert abs(actual[0] - _slow_kl(counts, levels)) <= 1


def test_kl_of_a_histogram_with_few_distinct_values_keeps_them() -> None:
    x = (torch.arange(4096) % 17 / 16.0)[None]
    assert ranges(x, parse("int4:tensor:kl"))[1].item() > 0.9


@pytest.mark.parametrize("kind", ["gauss", "laplace", "relu"])
def test_kl_is_modelopts_to_the_bin(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = "modelopt.torch.quantization.calib.histogram"
        modelopt = pytest.importorskip(name, reason="modelopt is no dependency; pip install nvidia-modelopt==0.47.0 to run this")
    counts, widths = histogram(_samples(kind, 1, 100_000).abs().numpy())
    edges = np.arange(counts.shape[1] + 1) * widths[0]
    theirs = modelopt._compute_amax_entropy(counts[0].copy(), edges, 8, False).item()
    assert float(thresholds(counts, widths, 128)[0]) == pytest.approx(theirs, rel=1e-6)


def test_kl_agrees_with_onnxruntimes_calibrator() -> None:
    """ONNX Runtime merges int(2048 / 128) bins and drops the remainder, so it may be off by some bins; its optimum must be near ours."""
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate", reason="onnxruntime is not installed")
    magnitudes = _samples("laplace", 1, 100_000).abs().numpy()
    collector = calibrate.HistogramCollector("entropy", False, 2048, 128, 99.99, "same")
    counts, edges = np.histogram(magnitudes, 2049, (-float(magnitudes.max()), float(magnitudes.max())))
    low, high = collector.get_entropy_threshold((counts, edges, edges[0], edges[-1], edges[-1]), 128)[:2]
    _, ours = ranges(torch.from_numpy(magnitudes), parse("int8:tensor:kl"))
    assert float(high) == pytest.approx(ours.item(), rel=0.15)
    assert float(low) <= 0


@pytest.mark.parametrize("kind", ["gauss", "laplace"])
@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_octav_minimises_its_noise_model(kind: str, bits: int) -> None:
    """J(s) = 4^-B / 3 s^2 P(|x| <= s) + E[(|x| - s)^2; |x| > s]; the paper's fixed point is within 1e-3 of its minimum from 4 bits."""
    x = _samples(kind, 1, 200_000).abs()[0].double()

    def model(s: float) -> float:
        inside = x <= s
        return float((4.0**-bits / 3 * s * s * inside).mean() + ((x - s).square() * ~inside).mean())

    actual = float(ranges(x[None].float(), parse(f"int{bits}:tensor:octav"))[1])
    dense = min(model(float(x.max()) * i / 500) for i in range(20, 501))
    assert model(actual) <= (1.001 if bits >= 4 else 1.005) * dense


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 40),
    exponent=st.integers(-140, 60),
    seed=st.integers(0, 999),
    clipping=st.sampled_from(["minmax", "percentile", "mse", "octav", "kl"]),
    bits=st.integers(1, 16),
    tail=st.sampled_from(["", ":affine", ":e8m0"]),
)
def test_ranges_are_finite_ordered_and_within_reach(
    rows: int, columns: int, exponent: int, seed: int, clipping: str, bits: int, tail: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator) * 2.0**exponent
    x[torch.rand(x.shape, generator=generator) < 0.3] = 0.0
    lo, hi = ranges(x, parse(f"int{bits}:channel:{clipping}{tail}"))
    top = x.abs().amax(dim=1)
    assert lo.shape == hi.shape == (rows,)
    assert (lo <= 0).all()
    assert (hi >= 0).all()
    assert ((hi - lo > 0) == (top > 0)).all()
    assert (hi <= 4.1 * top).all()
    assert tail == ":affine" or torch.equal(lo, -hi)


def test_a_block_with_nan_or_infinity_gives_no_finite_range() -> None:
    x = torch.ones(3, 5)
    x[1, 2], x[2, 2] = torch.nan, torch.inf
    for clipping in ("minmax", "percentile", "mse", "octav", "kl"):
        lo, hi = ranges(x, parse(f"int4:channel:{clipping}"))
        assert torch.isfinite(hi - lo).tolist() == [True, False, False]


@pytest.mark.parametrize("shift", [0.0, 3.0])
@pytest.mark.parametrize("clipping", ["minmax", "percentile", "mse", "octav", "kl"])
@pytest.mark.parametrize("affine", ["", ":affine"])
def test_statistics_give_the_ranges_of_the_whole_data(shift: float, clipping: str, affine: str) -> None:
    statistics, batches = TensorStatistics("layer"), [_samples("laplace", 1, 5000 + i)[0] + shift for i in range(3)]
    for batch in batches:
        statistics.update(batch)
    spec = parse(f"int4:tensor:{clipping}{affine}")
    low, high = from_statistics(statistics, spec)
    expected_low, expected_high = (float(end) for end in ranges(torch.cat(batches)[None], spec))
    tolerance = 0.12 if clipping == "kl" else 0.02
    assert (low, high) == pytest.approx((expected_low, expected_high), rel=tolerance, abs=0.05)


@pytest.mark.parametrize("clipping", ["percentile", "mse", "octav", "kl"])
def test_statistics_without_negative_values_give_an_unsigned_range(clipping: str) -> None:
    x = _samples("gauss", 1, 50_000)[0].relu()
    statistics = TensorStatistics("layer")
    statistics.update(x)
    low, high = from_statistics(statistics, parse(f"int4:tensor:{clipping}"))
    assert low == 0
    assert 0 < high <= float(x.max())
    if clipping == "mse":
        dense = min(float(_affine_error(x[None], torch.zeros(1), x.max()[None] * i / 200, 4)) for i in range(40, 201))
        assert float(_affine_error(x[None], torch.zeros(1), torch.tensor([high]), 4)) <= 1.002 * dense
