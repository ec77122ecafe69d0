"""`ste`: the plain straight-through estimator (Bengio et al. 2013, arXiv:1308.3432), for every format.

The gradient is 1 inside the clip range and 0 outside (Jacob et al., CVPR 2018; Krishnamoorthi 2018, arXiv:1806.08342, section 2.4).
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from quant_core.clipping import from_statistics
from quant_core.codecs.affine import apply_grid, make_grid, to_codes, to_values
from quant_core.codecs.blocks import block_ranges
from quant_core.codecs.qparams import BlockQParams, QParams
from quant_core.codecs.quantize import fake_quantize
from quant_core.network.statistics import EMA, TensorStatistics
from quant_core.ptq.activation import ActivationQuantizer, range_qparams
from quant_core.qat.functions import affine, straight_through
from quant_core.qat.method import InputQuantizer, Method, Stored, WeightQuantizer, is_linear, is_static
from quant_core.qat.rows import blocks, from_rows, inside, unsaturated
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import InputError

REFRESH = 16
"""Training steps between two searches of a weight's range; min-max is taken anew at every step."""


class RangeWeight(WeightQuantizer):
    """Integers over the range that the clipping of `spec` finds, which follows the weight while it trains and is frozen in eval mode.

    `factor`: (rows, their grid) -> the factor of the gradient of each value, [R, C].
    """

    low: Tensor
    high: Tensor
    steps: Tensor

    def __init__(
        self, weight: Tensor, spec: QuantSpec, channel_axis: int, factor: Callable[[Tensor, BlockQParams], Tensor] = inside
    ) -> None:
        super().__init__(spec, channel_axis)
        self.factor = factor
        rows, self.block = blocks(weight, self.spec, channel_axis)
        for name, end in zip(("low", "high"), block_ranges(rows, self.spec, None), strict=True):
            self.register_buffer(name, end.clone())
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def follow(self, rows: Tensor) -> None:
        """Take the range of `rows` [R, C] when it is due."""
        if not (self.training and torch.is_grad_enabled()):
            return
        self.steps += 1
        if self.spec.clipping == "minmax" or int(self.steps) % REFRESH == 0:
            low, high = block_ranges(rows, self.spec, None)
            if bool(torch.isfinite(high - low).all()):
                self.low, self.high = low.clone(), high.clone()

    def grid(self) -> BlockQParams:
        """Return the grid of the present range."""
        return make_grid(self.spec, self.low, self.high, self.block)

    def values(self, rows: Tensor, grid: BlockQParams) -> Tensor:
        """Return the rows on the grid; rounded at random while training where the spec has stochastic rounding."""
        if self.stochastic and self.training:
            return to_values(to_codes(rows, grid, replace(self.spec, rounding="stochastic"), None), grid)
        return apply_grid(rows, grid)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the quantized weight."""
        rows, _ = blocks(weight, self.spec, self.channel_axis)
        self.follow(rows)
        grid = self.grid()
        values = from_rows(self.values(rows, grid), weight, self.channel_axis)
        if not weight.requires_grad:
            return values
        return straight_through(weight, values, from_rows(self.factor(rows, grid), weight, self.channel_axis))

    def stored(self, weight: Tensor) -> Stored:
        """Return the weight and spec with the present range."""
        return weight, self.spec, (self.low, self.high)


class FormatWeight(WeightQuantizer):
    """Every other format, its scales taken from the weight at each step. The gradient is 1 where the format does not saturate."""

    def __init__(self, _weight: Tensor, spec: QuantSpec, channel_axis: int) -> None:
        super().__init__(spec, channel_axis)
        self.noisy = replace(spec, rounding="stochastic") if self.stochastic else self.spec

    def forward(self, weight: Tensor) -> Tensor:
        """Return the quantized weight."""
        values = fake_quantize(weight, self.noisy if self.training else self.spec, channel_axis=self.channel_axis)
        factor = pass_through(weight, self.spec, self.channel_axis) if weight.requires_grad else None
        return straight_through(weight, values, factor)


class RangeInput(InputQuantizer):
    """Static integers. Min-max and EMA ranges follow the batches as moving averages (Jacob et al., section 3.1); others stay calibrated."""

    low: Tensor
    high: Tensor

    def __init__(self, spec: QuantSpec, statistics: TensorStatistics | None, _channel_axis: int = -1) -> None:
        super().__init__()
        if statistics is None:
            raise InputError(f"activation {spec}: it is static, but there are no calibration statistics; write {spec}:dynamic.")
        self.spec = spec
        for name, end in zip(("low", "high"), from_statistics(statistics, spec), strict=True):
            self.register_buffer(name, torch.tensor(end, dtype=torch.float64))

    def codes(self) -> QParams:
        """Return the quantization parameters of the present range."""
        return range_qparams(float(self.low), float(self.high), self.spec)

    def follow(self, x: Tensor) -> None:
        """Move the range towards that of `x` while training."""
        if not (self.training and self.tracking and self.spec.clipping in ("minmax", "ema")) or not x.numel():
            return
        low, high = (float(end) for end in x.detach().aminmax())
        old_low, old_high = float(self.low), float(self.high)
        if self.spec.symmetric and old_low < 0:
            low, high = -max(-low, high), max(-low, high)
        low, high = min(low, 0.0), max(high, 0.0)
        if math.isfinite(high - low):
            self.low.fill_(old_low + EMA * (low - old_low))
            self.high.fill_(old_high + EMA * (high - old_high))

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantized input."""
        self.follow(x)
        return affine(x, self.codes())


class FormatInput(InputQuantizer):
    """Dynamic integers, and formats whose scales follow from each batch."""

    def __init__(self, spec: QuantSpec, statistics: TensorStatistics | None, channel_axis: int) -> None:
        super().__init__()
        self.spec, self._axis = spec, channel_axis
        self._quantize = ActivationQuantizer(spec, statistics, channel_axis)

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantized input."""
        values = self._quantize(x.detach())
        factor = None
        if x.requires_grad:
            moved = x.detach().movedim(self._axis, -1)
            flat = moved.reshape(-1, moved.shape[-1])
            mask = pass_through(flat, self.spec, 0)
            factor = None if mask is None else mask.reshape(moved.shape).movedim(-1, self._axis)
        return straight_through(x, values, factor)


def pass_through(x: Tensor, spec: QuantSpec, channel_axis: int) -> Tensor | None:
    """Return the mask of values whose gradient passes, the shape of `x`; None where it passes everywhere.

    Binary: |x| <= 1 (XNOR-Net, section 3.1). Ternary, k-means and ranges taken from the very values: everywhere. Blocks: where the block's
    shared scale does not make the value saturate.
    """
    if spec.format == "binary":
        return x.detach().abs() <= 1.0
    if spec.format in ("ternary", "kmeans") or (spec.format == "int" and spec.granularity != "vector"):
        return None
    return unsaturated(x.detach(), spec, channel_axis)


def weight(initial: Tensor, spec: QuantSpec, channel_axis: int) -> WeightQuantizer:
    """Return the quantizer of any weight spec."""
    return RangeWeight(initial, spec, channel_axis) if is_linear(spec) else FormatWeight(initial, spec, channel_axis)


def activation(spec: QuantSpec, statistics: TensorStatistics | None, channel_axis: int) -> InputQuantizer:
    """Return the quantizer of any activation spec."""
    return RangeInput(spec, statistics) if is_static(spec) else FormatInput(spec, statistics, channel_axis)


METHOD = Method(weight, activation, lambda _spec: True, lambda _spec, _statistics: True, "plain straight-through estimator, every format")
