"""Clipping: which range [lo, hi] a block of values is quantized over. Min-max, EMA, percentile, KL, MSE, OCTAV; all blocks at once."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant_core.clipping import definitions, divergence, kernels
from quant_core.clipping.kernels import F32
from quant_core.network.statistics import TensorStatistics
from quant_core.spec.quant_spec import QuantSpec

PERCENTILE = 99.99
Ranges = tuple[NDArray[np.float64], NDArray[np.float64]]
# Fractions of the min-max scale. The error of few bits is smooth but its minimum may be far below 1; that of many bits is jagged near 1.
_FEW_BITS = np.concatenate([np.linspace(1.0, 0.1, 120), np.geomspace(0.099, 1 / 64, 24)])
_FEW_BITS_LONG = np.ascontiguousarray(_FEW_BITS[::2])  # of a long row the error is smooth enough for half of them
_LONG = 256
_SHORT = {"group": 256, "vector": 64}  # a block of fewer values, whatever the rows of a layer
_MANY_BITS = np.concatenate([np.linspace(1.005, 0.6, 160), np.geomspace(0.59, 1 / 64, 32)])
_MANY_BITS_SHORT = np.concatenate([np.linspace(2.0, 0.6, 560), _MANY_BITS[160:]])  # all values of a short row may lie near a wider grid
_AFFINE = np.concatenate([np.linspace(1.0, 0.3, 64), np.geomspace(0.29, 1 / 32, 12)])
_AFFINE_SHORT = np.concatenate([np.linspace(1.8, 0.6, 240), np.linspace(0.59, 0.3, 26), _AFFINE[64:]])


def ranges(blocks: Tensor, spec: QuantSpec, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return (lo, hi), [B] each, float32 on the blocks' device, of `blocks` [B, n] by the clipping of `spec`.

    Positive `weights` [B, n] weight the errors of `mse` and `octav` and the ranks of `percentile`; the others leave them out.

    Symmetric specs give lo = -hi; affine ranges contain 0. `ema` of one tensor is min-max. The error that `mse` minimizes is the
    quantizer's own: symmetric, scale hi / max(1, 2^(bits-1) - 1) and codes [-2^(bits-1), 2^(bits-1) - 1]; affine, scale
    (hi - lo) / (2^bits - 1). Blocks of zeros and empty blocks give (0, 0); a block with NaN or infinity gives its min-max, not finite.
    On the CPU compiled loops search; elsewhere their definitions in torch (`quant_core.clipping.definitions`), where the blocks are. The
    two differ by the order of float32 sums.
    """
    if blocks.device.type != "cpu":
        return _clipped_there(blocks.detach().to(torch.float32), spec, weights)
    x = np.ascontiguousarray(blocks.detach().to(torch.float32).numpy())
    low, high = _clipped(x, spec, None if weights is None else np.ascontiguousarray(weights.to(torch.float32).numpy()))
    return _tensor(low, blocks), _tensor(high, blocks)


def from_statistics(statistics: TensorStatistics, spec: QuantSpec) -> tuple[float, float]:
    """Return (lo, hi) of a tensor by the clipping of `spec`, from what one pass over the calibration batches kept of it.

    As `ranges` (where a search finds nothing, min-max), with two differences: a symmetric spec gives (0, hi) where no value was negative
    (codes 0 to 2^bits - 1), and percentile, mse, octav and kl read the histogram, so they are exact to a bin.
    """
    unsigned = spec.symmetric and statistics.unsigned
    if spec.clipping in ("minmax", "ema") or not statistics.count or statistics.low == statistics.high == 0.0:
        ema = spec.clipping == "ema"
        low, high = (statistics.ema_low, statistics.ema_high) if ema else (statistics.low, statistics.high)
    elif spec.clipping == "percentile":
        low, high = _histogram_percentile(statistics, spec.symmetric)
    elif spec.clipping == "kl":
        levels = 2 ** (spec.bits if unsigned else max(spec.bits - 1, 1))
        counts = statistics.magnitudes()[None]
        top = float(divergence.thresholds(counts, np.array([statistics.width]), levels)[0])
        low, high = max(statistics.low, -top), min(statistics.high, top)
    else:
        values, weights = (column[None] for column in statistics.points())
        search = _WEIGHTED[spec.clipping]
        low, high = (float(end[0]) for end in search(values, spec, weights, unsigned))
    if not high > low:  # a search that found nothing, as of a constant
        low, high = statistics.low, statistics.high
    top = max(-low, high)
    if spec.symmetric and not unsigned:
        return -top, top
    return (0.0 if unsigned else min(low, 0.0) + 0.0), max(high, 0.0)


def _histogram_percentile(statistics: TensorStatistics, symmetric: bool) -> tuple[float, float]:
    """Outer edges of the bins that hold the nearest rank of the magnitudes, or of each side; cut at what was seen."""
    rank = max(_nearest_rank(statistics.count), 1)
    half = len(statistics.counts) // 2
    if symmetric:
        top = (int(np.searchsorted(np.cumsum(statistics.magnitudes()), rank)) + 1) * statistics.width
        return max(statistics.low, -top), min(statistics.high, top)
    right = (int(np.searchsorted(np.cumsum(statistics.counts), rank)) + 1 - half) * statistics.width
    left = (half - int(np.searchsorted(np.cumsum(statistics.counts[::-1]), rank)) - 1) * statistics.width
    return max(statistics.low, left), min(statistics.high, right)


def _tensor(values: NDArray[np.float64], like: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(like.device)


def _clipped(x: F32, spec: QuantSpec, w: F32 | None) -> Ranges:
    """Return the range of every row of `x` [B, n]; where a search finds nothing, min-max."""
    if x.size == 0:
        return np.zeros(len(x)), np.zeros(len(x))
    widest = _minmax(x, spec)
    weighted = None if w is None else _WEIGHTED.get(spec.clipping)
    low, high = _METHODS[spec.clipping](x, spec) if weighted is None else weighted(x, spec, w, False)
    usable = (high > low) & np.isfinite(widest[1] - widest[0])
    return np.where(usable, low, widest[0]), np.where(usable, high, widest[1])


def _clipped_there(x: Tensor, spec: QuantSpec, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the range of every row of `x` [B, n] as `_clipped`, in float32, where `x` is."""
    if x.numel() == 0:
        return x.new_zeros(len(x)), x.new_zeros(len(x))
    ends, first = [], 0
    for piece in definitions.pieces(x):
        w = None if weights is None else weights[first : first + len(piece)].to(piece)
        first += len(piece)
        widest, (low, high) = definitions.minmax(piece, spec.symmetric), _searched_there(piece, spec, w)
        usable = (high > low) & torch.isfinite(widest[1] - widest[0])
        ends.append([torch.where(usable, end, wide).float() for end, wide in zip((low, high), widest, strict=True)])
    lows, highs = zip(*ends, strict=True)
    return torch.cat(lows), torch.cat(highs)


def _searched_there(x: Tensor, spec: QuantSpec, w: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return (lo, hi), [B] float64, by the definition of the clipping of `spec`."""
    codes = 2.0**spec.bits - 1.0
    half = float(np.floor(codes / 2.0))
    if spec.clipping == "percentile":
        return definitions.percentile(x, spec.symmetric, PERCENTILE, w)
    if spec.clipping == "octav":
        return definitions.octav(x, 4.0**-spec.bits, spec.symmetric, w)
    if spec.clipping == "kl":
        threshold = definitions.kl(x, 2 ** max(spec.bits - 1, 1))
        low, high = definitions.minmax(x, spec.symmetric)
        return (-threshold, threshold) if spec.symmetric else (torch.maximum(low, -threshold), torch.minimum(high, threshold))
    if spec.clipping != "mse":
        return definitions.minmax(x, spec.symmetric)
    if not spec.symmetric:
        scale, zero = definitions.mse_affine(x, codes, _affine_fractions(spec, x.shape[1]), w)
        return -zero * scale, (codes - zero) * scale
    if spec.scale == "e8m0":
        scale = definitions.mse_power_of_two(x, half - codes, half, w)
    else:
        scale = definitions.mse_symmetric(x, half - codes, half, _fractions(spec, x.shape[1]), w)
    return -scale * max(half, 1.0), scale * max(half, 1.0)


def _minmax(x: F32, spec: QuantSpec) -> Ranges:
    low, high = np.minimum(x.min(axis=1), 0.0).astype(np.float64), np.maximum(x.max(axis=1), 0.0).astype(np.float64)
    if spec.symmetric:
        high = np.maximum(-low, high)
        return -high, high
    return low, high


def _percentile(x: F32, spec: QuantSpec, w: F32 | None = None, unsigned: bool = False) -> Ranges:  # noqa: ARG001
    """Nearest rank k = floor(p n / 100 + 1/2) of the magnitudes, or of each side for an affine range."""
    if spec.symmetric:
        high = np.maximum(_rank(np.abs(x), w), 0.0)
        return -high, high
    return np.minimum(-_rank(-x, w), 0.0), np.maximum(_rank(x, w), 0.0)


def _nearest_rank(count: int) -> int:
    """Return floor(p count / 100 + 1/2) in integers: at exact halves the float product may fall short."""
    return (round(PERCENTILE * 100) * count + 5000) // 10_000


def _rank(x: F32, w: F32 | None) -> NDArray[np.float64]:
    n = x.shape[1]
    if w is not None:
        return definitions.weighted_rank(torch.from_numpy(x), torch.from_numpy(w), PERCENTILE).numpy()
    k = min(max(_nearest_rank(n), 1), n)
    ranked: NDArray[np.float64] = (x.max(axis=1) if k == n else np.partition(x, k - 1, axis=1)[:, k - 1]).astype(np.float64)
    return ranked


def _mse(x: F32, spec: QuantSpec, w: F32 | None = None, unsigned: bool = False) -> Ranges:
    """Least squared error: a grid of scales (times zero points), each with its least-squares scale, then a local search."""
    codes = 2.0**spec.bits - 1.0
    if not spec.symmetric:
        grids = np.zeros((len(x), 2))
        kernels.search_rows(kernels.mse_affine, x, w, codes, _affine_fractions(spec, x.shape[1]), grids)
        scale, zero = grids.T
        return -zero * scale, (codes - zero) * scale
    high, scales = codes if unsigned else np.floor(codes / 2.0), np.zeros(len(x))
    if spec.scale == "e8m0":
        kernels.search_rows(kernels.mse_power_of_two, x, w, high - codes, high, scales)
    else:
        kernels.search_rows(kernels.mse_symmetric, x, w, high - codes, high, _fractions(spec, x.shape[1]), scales)
    largest = scales * max(high, 1.0)
    return -largest, largest


def _fractions(spec: QuantSpec, length: int) -> NDArray[np.float64]:
    """Return the fractions of the min-max scale that rows of `length` are searched at."""
    if spec.bits > 4:
        return _MANY_BITS_SHORT if _is_short(spec, length) else _MANY_BITS
    return _FEW_BITS if length < _LONG else _FEW_BITS_LONG


def _affine_fractions(spec: QuantSpec, length: int) -> NDArray[np.float64]:
    return _AFFINE_SHORT if spec.bits > 4 and _is_short(spec, length) else _AFFINE


def _is_short(spec: QuantSpec, length: int) -> bool:
    return length < _SHORT.get(spec.granularity, 0)


def _octav(x: F32, spec: QuantSpec, w: F32 | None = None, unsigned: bool = False) -> Ranges:
    """Equation 7 of OCTAV; for unsigned and affine ranges with its noise of (hi - lo)."""
    symmetric = spec.symmetric and not unsigned
    bounds = np.zeros((len(x), 2))
    kernels.search_rows(kernels.octav, x, w, 4.0**-spec.bits, symmetric, bounds)
    return bounds[:, 0], bounds[:, 1]


def _kl(x: F32, spec: QuantSpec) -> Ranges:
    """TensorRT's threshold on magnitudes; an affine range is the min-max range cut at it."""
    counts, widths = divergence.histogram(np.abs(x))
    threshold = divergence.thresholds(counts, widths, 2 ** max(spec.bits - 1, 1))
    if spec.symmetric:
        return -threshold, threshold
    low, high = _minmax(x, spec)
    return np.maximum(low, -threshold), np.minimum(high, threshold)


_METHODS: dict[str, Callable[[F32, QuantSpec], Ranges]] = {
    "minmax": _minmax,
    "ema": _minmax,
    "percentile": _percentile,
    "mse": _mse,
    "octav": _octav,
    "kl": _kl,
}
_WEIGHTED: dict[str, Callable[[F32, QuantSpec, F32 | None, bool], Ranges]] = {"mse": _mse, "octav": _octav, "percentile": _percentile}
