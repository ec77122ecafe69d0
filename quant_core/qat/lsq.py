"""`lsq`: learned step size quantization (Esser et al., ICLR 2020, arXiv:1902.08153), for symmetric integers.

A step starts at the value of the paper. Where the policy names a clipping other than `minmax`, it starts at the range of that clipping, so
that training begins with the post-training network (LSQ+ starts its inputs at the least squared error: Bhalgat et al., arXiv:2004.09576).
A value counts as inside where its rounded v / s is a code; the paper (equation 3) tests v / s itself. They differ for values within half a
step beyond the ends, which here pass their gradient, as in torch's fake quantization.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.clipping import from_statistics
from quant_core.codecs import Bounds
from quant_core.codecs.affine import apply_grid, integer_range, make_grid
from quant_core.codecs.blocks import block_ranges, expand_blocks
from quant_core.codecs.qparams import BlockQParams, QParams
from quant_core.network.statistics import TensorStatistics
from quant_core.ptq.activation import TINY
from quant_core.qat.functions import learned_step, step_slope
from quant_core.qat.method import InputQuantizer, Method, Stored, WeightQuantizer, is_linear, is_static
from quant_core.qat.rows import blocks, from_rows, per_block
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import InputError


def initial_step(mean_magnitude: Tensor, top: int) -> Tensor:
    """Return 2 mean|v| / sqrt(Qp) (section 2.1), at least `TINY`."""
    return (2.0 * mean_magnitude / math.sqrt(max(top, 1))).clamp(min=TINY)


def step_of(low: Tensor, high: Tensor, top: int) -> Tensor:
    """Return the step of Qp codes up to the end of a range, at least `TINY`."""
    return (torch.maximum(-low, high) / max(top, 1)).clamp(min=TINY)


def limit(step: Tensor, last: Tensor) -> None:
    """Let steps change by at most a factor of 2 per update, in place, at least `TINY`; `last` becomes their present value.

    A step of 8 bits is small beside its updates. One that overshoots 0 makes every code saturate, and training does not come back. The step
    of a tensor of zeros, `TINY`, may grow at once.
    """
    most = torch.where(last > TINY, last * 2, torch.inf)
    step.copy_(torch.minimum(torch.maximum(step, last / 2), most).clamp(min=TINY))
    last.copy_(step)


def remember(module: nn.Module, step: Tensor) -> None:
    """Give `module` a buffer `last` for `limit`: after an update and after loading a state it equals the parameter `step`."""
    module.register_buffer("last", step.clone(), persistent=False)
    module.register_load_state_dict_post_hook(_caught_up)  # type: ignore[no-untyped-call]


def _caught_up(module: nn.Module, _keys: object) -> None:
    module.get_buffer("last").copy_(module.get_parameter("step").detach())


class StepWeight(WeightQuantizer):
    """One learned step per scale block: the parameter `step`, [R or 1, B]."""

    last: Tensor

    def __init__(self, weight: Tensor, spec: QuantSpec, channel_axis: int) -> None:
        super().__init__(spec, channel_axis)
        rows, self.block = blocks(weight, self.spec, channel_axis)
        shape = torch.Size((1, 1)) if spec.granularity == "tensor" else torch.Size((len(rows), -(-rows.shape[1] // self.block)))
        counts = per_block(torch.ones_like(rows), self.block, shape)
        _, self.top = integer_range(spec, signed=True)
        if spec.clipping == "minmax":
            step = initial_step(per_block(rows.abs(), self.block, shape) / counts, self.top)
        else:
            step = step_of(*block_ranges(rows, self.spec, None), self.top).reshape(shape)
        self.step = nn.Parameter(step)
        remember(self, step)
        self.register_buffer("gradient_scale", 1.0 / torch.sqrt(counts * max(self.top, 1)), persistent=False)

    def grid(self) -> BlockQParams:
        """Return the grid of the present steps, rounded to their storage."""
        return make_grid(self.spec, *self._bounds(), self.block)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the quantized weight (equations 1 and 2)."""
        arguments = (weight, self.step, self.gradient_scale, self.grid(), self.channel_axis, self.spec)
        quantized: Tensor = _StepWeightFunction.apply(*arguments)  # type: ignore[no-untyped-call]
        return quantized

    def stored(self, weight: Tensor) -> Stored:
        """Return the weight and spec with the range of the present steps."""
        return weight, self.spec, self._bounds()

    def constrain(self, weight: Tensor) -> None:  # noqa: ARG002
        """Keep every step positive and near its last value."""
        limit(self.step.data, self.last)

    def _bounds(self) -> Bounds:
        high = self.step.detach() * max(self.top, 1)
        return -high, high


class _StepWeightFunction(torch.autograd.Function):
    """As `StepFunction`, with one step per block of a weight."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, step: Tensor, gradient_scale: Tensor, grid: BlockQParams, channel_axis: int, spec: QuantSpec
    ) -> Tensor:
        rows, _ = blocks(weight, spec, channel_axis)
        ctx.save_for_backward(rows, gradient_scale)
        ctx.grid, ctx.axis, ctx.spec, ctx.shape = grid, channel_axis, spec, step.shape
        return from_rows(apply_grid(rows, grid), weight, channel_axis)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        rows, gradient_scale = ctx.saved_tensors
        grid: BlockQParams = ctx.grid
        incoming, _ = blocks(gradient, ctx.spec, ctx.axis)
        steps = rows * expand_blocks(grid.scale.reciprocal(), grid.block, rows.shape[1])
        rounded = steps.round()
        clipped = rounded.clamp(grid.quant_min, grid.quant_max)
        inside = clipped == rounded
        per_value = incoming * torch.where(inside, clipped - steps, clipped)
        of_step = per_block(per_value, grid.block, ctx.shape) * gradient_scale
        return from_rows(incoming * inside, gradient, ctx.axis), of_step, None, None, None, None


class StepInput(InputQuantizer):
    """One learned step for the input; unsigned codes where calibration saw no negative value. N of the gradient scale is one example's."""

    last: Tensor

    def __init__(self, spec: QuantSpec, statistics: TensorStatistics | None, _channel_axis: int = -1) -> None:
        super().__init__()
        if statistics is None:
            raise InputError(f"activation {spec}: lsq starts its step from calibration statistics; give them.")
        self.low, self.high = integer_range(spec, signed=not statistics.unsigned)
        if spec.clipping == "minmax":
            mean = float(abs(statistics.sums).sum()) / max(statistics.count, 1)
            step = initial_step(torch.tensor(mean, dtype=torch.float32), self.high)
        else:
            low, high = (torch.tensor(end, dtype=torch.float32) for end in from_statistics(statistics, spec))
            step = step_of(low, high, self.high)
        self.step = nn.Parameter(step)
        remember(self, step)

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantized input (equations 1 and 2)."""
        return learned_step(x, self.step, self.low, self.high, self._gradient_scale(x))

    def _gradient_scale(self, x: Tensor) -> float:
        """Return 1 / sqrt(N Qp) (section 2.2)."""
        features = max(x.numel() // max(x.shape[0], 1), 1)
        return 1.0 / math.sqrt(features * max(self.high, 1))

    def constrain(self) -> None:
        """Keep the step positive and near its last value."""
        limit(self.step.data, self.last)

    def learned(self) -> nn.Parameter:
        """Return the step."""
        return self.step

    def slope(self, x: Tensor) -> Tensor:
        """Return the derivative with respect to the step (equation 3), times the scale of its gradient."""
        return step_slope(x, self.codes()[0], self.low, self.high)[0] * self._gradient_scale(x)

    def codes(self) -> QParams:
        """Return (step, 0, Qn, Qp)."""
        return QParams(max(float(self.step.detach()), TINY), 0, self.low, self.high)


def _covers_weight(spec: QuantSpec) -> bool:
    return is_linear(spec) and spec.symmetric and spec.bits > 1 and spec.rounding != "stochastic"


def _covers_input(spec: QuantSpec, statistics: TensorStatistics | None) -> bool:
    return is_static(spec) and spec.symmetric and spec.bits > 1 and statistics is not None


METHOD = Method(
    StepWeight,
    StepInput,
    _covers_weight,
    _covers_input,
    "learned step size, symmetric integers (Esser et al., ICLR 2020)",
)
