"""The searches of `quant_core.clipping.kernels` in torch, all rows at once, on any device: their definition, and what a GPU runs.

Sums are float64 in torch's order; the compiled loops add float32 in 64 lanes. Results differ by that rounding alone.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant_core.clipping import divergence

_EMPTY = 1e-30
_PIECE = 2**24
_STEPS = 30


def pieces(x: Tensor) -> Iterator[Tensor]:
    """Yield the rows of `x` [B, n] in pieces of 16 million elements, or of one row."""
    yield from torch.split(x, max(_PIECE // max(x.shape[1], 1), 1))


def minmax(x: Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Return (lo, hi) of each row, float64: lo <= 0 <= hi, lo = -hi where symmetric."""
    low, high = x.amin(dim=1).clamp(max=0.0).double(), x.amax(dim=1).clamp(min=0.0).double()
    if symmetric:
        high = torch.maximum(-low, high)
        return -high, high
    return low, high


def percentile(x: Tensor, symmetric: bool, percent: float, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return (lo, hi) at the nearest rank floor(p n / 100 + 1/2) of the magnitudes, or of each side, or at that share of `weights`."""
    if weights is not None:
        high = weighted_rank(x.abs() if symmetric else x, weights, percent).clamp(min=0.0)
        return -high if symmetric else -weighted_rank(-x, weights, percent).clamp(min=0.0), high
    rank = min(max(int(percent / 100.0 * x.shape[1] + 0.5), 1), x.shape[1])
    if symmetric:
        high = x.abs().kthvalue(rank, dim=1).values.double()
        return -high, high
    low, high = (-x).kthvalue(rank, dim=1).values, x.kthvalue(rank, dim=1).values
    return -low.clamp(min=0.0).double(), high.clamp(min=0.0).double()


def weighted_rank(x: Tensor, weights: Tensor, percent: float) -> Tensor:
    """Return of each row of `x` [B, n] the smallest value such that it and those below it have the share of the `weights`, [B] float64."""
    values, order = x.sort(dim=1, stable=True)
    upto = weights.gather(1, order).double().cumsum(dim=1)
    at = torch.searchsorted(upto, upto[:, -1:] * (percent / 100.0)).clamp(max=x.shape[1] - 1)
    return values.gather(1, at)[:, 0].double()


class _Best:
    """Per row [B] the least error so far, and its scale and zero point, float64."""

    def __init__(self, x: Tensor, levels: float, zero: float, rows: Tensor, weights: Tensor | None) -> None:
        self._x, self._levels, self._rows, self._weights = x, levels, rows, weights
        self.error, self.scale = torch.full_like(rows, torch.inf, dtype=torch.float64), torch.zeros_like(rows, dtype=torch.float64)
        self.zero = torch.full_like(self.scale, zero)

    def try_scale(self, scale: Tensor, zero: Tensor, among: Tensor | None = None) -> None:
        """Score codes [-zero, levels - zero] at `scale` [B] with their least-squares scale: scale + C / Q, of error E - C^2 / Q."""
        usable = self._rows & (scale > _EMPTY) if among is None else self._rows & (scale > _EMPTY) & among
        scale = torch.where(usable, scale, 1.0)
        error, cross, square = errors(self._x, scale, -zero, self._levels - zero, self._weights)
        divisor = torch.where(square > 0, square, 1.0)
        moved = scale + cross / divisor
        fits = (square > 0) & (moved > _EMPTY)
        error = torch.where(fits, error - cross * cross / divisor, error)
        better = usable & (error < self.error)
        self.error, self.scale, self.zero = (
            torch.where(better, new, old)
            for new, old in ((error, self.error), (torch.where(fits, moved, scale), self.scale), (zero, self.zero))
        )

    def polish(self, slack: int) -> None:
        """Try nearby scales at halving distance, zero points up to `slack` away, then least-squares steps until none helps."""
        width = 0.024
        for _ in range(5):
            scale, zero = self.scale, self.zero
            for shift in range(-slack, slack + 1):
                moved = zero + shift
                legal = (moved >= 0) & (moved <= self._levels)
                for step in (-1.0, 0.0, 1.0):
                    if step or shift:
                        self.try_scale(scale * (1.0 + step * width), moved, legal)
            width *= 0.5
        moving = self._rows
        for _ in range(10):
            before = self.error
            self.try_scale(self.scale, self.zero, moving)
            moving = moving & (self.error < before * (1.0 - 1e-6))


def errors(x: Tensor, scale: Tensor, low: Tensor, high: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return (E, C, Q) of codes k = clamp(round(x / scale), low, high): sums of r^2, r k, k^2 with r = x - k scale, [B] float64.

    `weights` [B, n] count every element so often.
    """
    single = scale.float()[:, None]
    codes = torch.minimum(torch.maximum(x * single.reciprocal(), low.float()[:, None]), high.float()[:, None]).round_()
    rest = x - codes * single
    counted = rest if weights is None else weights * rest
    square = codes if weights is None else weights * codes
    return tuple((a * b).sum(dim=1, dtype=torch.float64) for a, b in ((counted, rest), (counted, codes), (square, codes)))  # type: ignore[return-value]


def mse_symmetric(x: Tensor, low: float, high: float, grid: NDArray[np.float64], weights: Tensor | None = None) -> Tensor:
    """Return the scale [B] with the least error of codes [low, high]; `grid` holds fractions of the min-max scale."""
    top = x.abs().amax(dim=1).double()
    best = _Best(x, high - low, -low, (top > 0) & torch.isfinite(top), weights)
    zero = torch.full_like(top, -low)
    for fraction in grid.tolist():
        best.try_scale(top / max(high, 1.0) * fraction, zero)
    best.polish(0)
    return best.scale


def mse_power_of_two(x: Tensor, low: float, high: float, weights: Tensor | None = None) -> Tensor:
    """Return the power of two [B] with the least error of codes [low, high]."""
    top = x.abs().amax(dim=1).double()
    rows = (top > _EMPTY) & torch.isfinite(top)
    scale = torch.where(rows, top / max(high, 1.0), 1.0).log2().ceil().exp2()
    least, chosen = torch.full_like(top, torch.inf), torch.zeros_like(top)
    for _ in range(12):
        error = errors(x, scale, torch.full_like(top, low), torch.full_like(top, high), weights)[0]
        better = rows & (error < least)
        least, chosen, scale = torch.where(better, error, least), torch.where(better, scale, chosen), scale * 0.5
    return chosen


def mse_affine(x: Tensor, levels: float, grid: NDArray[np.float64], weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return (scale, zero point) [B] with the least error of `levels` steps: scales of `grid` times five zero points each."""
    low, high = minmax(x, symmetric=False)
    span = high - low
    best = _Best(x, levels, 0.0, (span > 0) & torch.isfinite(span), weights)
    for fraction in grid.tolist():
        scale = torch.where(span > 0, span / levels * fraction, 1.0)
        left = (-low / scale).round().clamp(0.0, levels)
        right = (levels - (high / scale).round()).clamp(0.0, levels)
        for part in range(5):
            best.try_scale(scale, (right + (left - right) * part / 4.0).round())
    best.polish(1)
    return best.scale, best.zero


def octav(x: Tensor, noise: float, symmetric: bool, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the range (low, high) [B] of OCTAV's fixed point (Sakr et al., ICML 2022, equation 7), to 1e-6 in at most 30 steps."""
    low = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    high, moving, magnitudes = low.clone(), torch.ones_like(low, dtype=torch.bool), x.abs()
    filled = _beyond(magnitudes, low, weights)[0]
    for _ in range(_STEPS):
        if symmetric:
            count, total = _beyond(magnitudes, high, weights)
            count = count + noise / 3.0 * (filled - count)
            new_high = torch.where(count > 0, total / count, 0.0)
            new_low = -new_high
        else:
            (above, above_sum), (below, below_sum) = _beyond(x, high, weights), _beyond(-x, -low, weights)
            t = noise / 12.0 * (filled - above - below)
            new_high = torch.where(above + t > 0, ((above_sum + low * t) / (above + t)).clamp(min=0.0), 0.0)
            new_low = torch.where(below + t > 0, ((high * t - below_sum) / (below + t)).clamp(max=0.0), 0.0)
        still = (new_high - high).abs() + (new_low - low).abs() > 1e-6 * (new_high - new_low)
        low, high = torch.where(moving, new_low, low), torch.where(moving, new_high, high)
        moving = moving & still
        if not bool(moving.any()):
            break
    return low, high


def _beyond(values: Tensor, end: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return (count or weight, sum), [B] float64, of the values above `end` [B] in float32."""
    above = values > end.float()[:, None]
    if weights is not None:
        counted = torch.where(above, weights, 0.0)
        return counted.sum(dim=1, dtype=torch.float64), (counted * values).sum(dim=1, dtype=torch.float64)
    return above.sum(dim=1).double(), torch.where(above, values, 0.0).sum(dim=1, dtype=torch.float64)


def kl(x: Tensor, levels: int) -> Tensor:
    """Return TensorRT's threshold of the magnitudes [B]; histograms are made where `x` is, and searched on the CPU."""
    magnitudes = x.abs()
    top = magnitudes.amax(dim=1).double()
    usable = torch.where(torch.isfinite(top) & (top > 0), top, 0.0)
    per_unit = torch.where(usable > 0, divergence.BINS / usable, 0.0)[:, None]
    bins = (magnitudes.double() * per_unit).to(torch.int64).clamp_(0, divergence.BINS - 1)
    counts = torch.zeros(len(x), divergence.BINS, dtype=torch.float64, device=x.device)
    counts.scatter_add_(1, bins, (per_unit > 0).double().expand(bins.shape))
    widths = (usable / divergence.BINS).cpu().numpy()
    return torch.from_numpy(divergence.thresholds(counts.cpu().numpy(), widths, levels)).to(x.device)
