"""The statistics of each layer's input, taken in one pass over the calibration batches; every activation clipping reads them."""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quant_core.network.cutting import parts
from quant_core.network.forward import forward, watched_inputs
from quant_core.network.parameters import layer_module
from quant_core.spec.layer import Layer
from quant_core.util.errors import InputError, LeftInFloatWarning
from quant_core.util.text import listed

BINS = 8192
EMA = 0.01
_HALF = BINS // 2
_PIECE = 2**24


class TensorStatistics:
    """Minimum, maximum, moving averages of both, sums and a histogram of all values seen; one pass, bounded memory.

    The histogram has 8192 bins around 0 whose width is a power of two: when a value lies outside, pairs of bins are merged exactly.

    Attributes:
        low, high: smallest and largest value.
        ema_low, ema_high: each batch's minimum and maximum averaged with weight 0.01 (the first batch starts them).
        count, zeros: number of values, and of those that are exactly 0; `batches` updates.
        counts, sums, width: the histogram: values and their sum per bin; bin i spans [i - 4096, i - 4095) x width.
        means: shape -> (sum over examples of the values that keep that shape, how many): the mean input of a layer.
    """

    def __init__(self, name: str, kept_dims: int = 0) -> None:
        self.name, self._kept_dims = name, kept_dims
        self.low, self.high, self.ema_low, self.ema_high = math.inf, -math.inf, 0.0, 0.0
        self.count, self.zeros, self.batches, self.width = 0, 0, 0, 0.0
        self.counts: NDArray[np.float64] = np.zeros(BINS)
        self.sums: NDArray[np.float64] = np.zeros(BINS)
        self.means: dict[tuple[int, ...], tuple[Tensor, int]] = {}
        self._ranges: dict[int, tuple[float, float]] = {}

    @property
    def unsigned(self) -> bool:
        """True where no value was negative."""
        return self.low >= 0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.counts.nbytes + self.sums.nbytes + sum(mean.numel() * mean.element_size() for mean, _ in self.means.values())

    def update(self, x: Tensor) -> None:
        """Add one batch of any shape.

        Raises:
            InputError: it holds NaN or infinity, naming the layer.
        """
        self.add(x)
        self.end_batch()

    def add(self, x: Tensor, call: int = 0) -> None:
        """Add a part of a batch: of the call with this number, where a layer is called several times in a pass.

        Counts are those of the whole batch, and so is each batch's range; sums over a bin are rounded in another order.

        Raises:
            InputError: it holds NaN or infinity, naming the layer.
        """
        if x.numel() == 0:
            return
        x = x.detach().to(torch.float32)
        low, high = (float(end) for end in x.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError(
                f"layer {self.name!r}: its input in calibration batch {self.batches + 1} holds NaN or infinity; clean the data."
            )
        before = self._ranges.get(call, (low, high))
        self._ranges[call] = min(before[0], low), max(before[1], high)
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.count += x.numel()
        self._widen(max(-low, high))
        per_width = 1.0 / self.width if self.width else 0.0
        if x.device.type == "cpu":
            self.zeros += _count(np.ascontiguousarray(x.numpy()).reshape(-1), per_width, self.counts, self.sums)
        else:
            zeros, counts, sums = binned(x, per_width)
            self.zeros, self.counts, self.sums = self.zeros + zeros, self.counts + counts, self.sums + sums
        if self._kept_dims:
            self._add_mean(x)

    def end_batch(self) -> None:
        """Average the ranges of the batch that was added, one per call."""
        for low, high in self._ranges.values():
            self.ema_low += (low - self.ema_low) * (EMA if self.batches else 1.0)
            self.ema_high += (high - self.ema_high) * (EMA if self.batches else 1.0)
            self.batches += 1
        self._ranges.clear()

    def _widen(self, top: float) -> None:
        """Merge bins until |values| up to `top` fit."""
        if top < _HALF * self.width or top == 0.0:
            return
        width = math.ldexp(1.0, max(math.frexp(top)[1] - int(math.log2(_HALF)), -1000))
        merge = min(int(width / self.width), _HALF) if self.width else 1
        if merge > 1:
            for bins in (self.counts, self.sums):
                merged = bins.reshape(-1, merge).sum(axis=1)
                bins[:] = 0.0
                bins[_HALF - len(merged) // 2 : _HALF + len(merged) // 2] = merged
        self.width = width

    def _add_mean(self, x: Tensor) -> None:
        shape = tuple(x.shape[x.dim() - self._kept_dims :])
        rows = x.reshape(-1, *shape)
        total, count = self.means.get(shape, (torch.zeros(shape, dtype=torch.float32, device=x.device), 0))
        self.means[shape] = total + rows.sum(dim=0, dtype=torch.float32), count + len(rows)

    def points(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the mean value and the count of every filled bin, [P] and [P]; exact zeros are a point of their own, the first."""
        counts = self.counts.copy()
        counts[_HALF] -= self.zeros
        filled = counts > 0
        values = np.clip(self.sums[filled] / counts[filled], self.low, self.high)
        points, weights = np.append(0.0, values), np.append(float(self.zeros), counts[filled])
        return points.astype(np.float32), weights.astype(np.float32)

    def magnitudes(self) -> NDArray[np.float64]:
        """Return the counts of |x| in equal bins of `width` from 0 up to the largest magnitude."""
        folded = self.counts[_HALF:] + self.counts[_HALF - 1 :: -1]
        return folded[: int(np.flatnonzero(folded)[-1]) + 1 if folded.any() else 1]


def binned(x: Tensor, per_width: float) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Return the zeros in `x` of any shape and, per bin of the histogram, count and sum of the values: the definition of `_count`.

    It runs where `x` is; only the bins come to the CPU.
    """
    counts, sums = (torch.zeros(BINS, dtype=torch.float64, device=x.device) for _ in range(2))
    for piece in torch.split(x.reshape(-1), _PIECE):
        values = piece.to(torch.float64)
        bins = (values * per_width).floor_().clamp_(-_HALF, _HALF - 1).to(torch.int64) + _HALF
        counts += torch.bincount(bins, minlength=BINS)
        sums.index_add_(0, bins, values)
    return int((x == 0).sum()), counts.cpu().numpy(), sums.cpu().numpy()


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _count(values: NDArray[np.float32], per_width: float, counts: NDArray[np.float64], sums: NDArray[np.float64]) -> int:
    zeros = 0
    for value in values:
        index = int(np.floor(value * per_width)) + 4096
        index = min(max(index, 0), 8191)
        counts[index] += 1.0
        sums[index] += value
        zeros += value == 0.0
    return zeros


def collect(model: nn.Module, layers: Sequence[Layer], batches: Iterable[Any], at_once: int = 0) -> dict[str, TensorStatistics]:
    """Run `model` over `batches` (model inputs) once and return the statistics of every called layer's INPUT, by layer name.

    Embeddings read indices, so they have none. A module that is called several times has one statistics for all its calls. A layer
    that no batch reaches has none either and is named in a `LeftInFloatWarning`: without a range its input stays in float. At most
    `at_once` examples run at once (0: a batch).

    Raises:
        InputError: there is no batch, or a layer's input holds NaN or infinity (the layer is named).
    """
    collected = {
        layer.name: TensorStatistics(layer.name, kept_dims=1 + len(layer.kernel))
        for layer in layers
        if layer.calls and layer.takes_activation
    }
    modules = {layer.name: layer_module(model, layer) for layer in layers if layer.name in collected}
    batch_count, calls = 0, Counter[str]()

    def observe(name: str, x: Tensor) -> None:
        collected[name].add(x, calls[name])
        calls[name] += 1

    with torch.inference_mode(), watched_inputs(modules, observe):
        for inputs in batches:
            for part in parts(inputs, at_once):
                calls.clear()
                forward(model, part.inputs)
            for statistics in collected.values():
                statistics.end_batch()
            batch_count += 1
    if not batch_count:
        raise InputError("the calibration split is empty; give at least one batch.")
    unreached = [name for name, statistics in collected.items() if not statistics.count]
    if unreached:
        text = f"no calibration batch reaches {listed(unreached)}: the input stays in float there"
        warnings.warn(text, LeftInFloatWarning, stacklevel=2)
    return {name: statistics for name, statistics in collected.items() if statistics.count}
