"""`ttq`: trained ternary quantization (Zhu et al., ICLR 2017, arXiv:1612.01064): two learned levels, threshold 0.05 max |w|."""

from typing import Any

import torch
from torch import Tensor, nn

from quant_core.codecs.quantize import as_rows, encode
from quant_core.codecs.ternary import thresholds
from quant_core.qat import ste
from quant_core.qat.functions import scale_gradient
from quant_core.qat.method import Method, Stored, WeightQuantizer, no_input
from quant_core.qat.rows import from_rows
from quant_core.spec.quant_spec import QuantSpec


class TrainedTernary(WeightQuantizer):
    """{-Wn, 0, Wp}: the parameters `negative` and `positive`, [R or 1, 1]. They start at the mean magnitudes of their weights."""

    def __init__(self, weight: Tensor, spec: QuantSpec, channel_axis: int) -> None:
        super().__init__(spec, channel_axis)
        levels = encode(weight, self.spec, channel_axis=channel_axis).scale
        assert levels is not None
        self.rate = len(levels) / weight.numel()
        self.negative, self.positive = nn.Parameter(levels[:, :1].clone()), nn.Parameter(levels[:, 1:].clone())

    def forward(self, weight: Tensor) -> Tensor:
        """Return the quantized weight (equation 6)."""
        rows = as_rows(weight, self.spec, self.channel_axis)
        threshold = thresholds(rows, self.spec)
        sides = rows < -threshold, rows > threshold
        negative, positive = (scale_gradient(level, self.rate) for level in (self.negative, self.positive))
        arguments = (weight, negative, positive, *sides, self.channel_axis, self.spec)
        quantized: Tensor = _TernaryFunction.apply(*arguments)  # type: ignore[no-untyped-call]
        return quantized

    def stored(self, weight: Tensor) -> Stored:
        """Return the master weight, whose thresholds tell the signs, with the levels."""
        return weight, self.spec, (-self.negative.detach(), self.positive.detach())

    def constrain(self, weight: Tensor) -> None:  # noqa: ARG002
        """Keep the levels from changing sign."""
        self.negative.data.clamp_(min=0.0)
        self.positive.data.clamp_(min=0.0)


class _TernaryFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, negative: Tensor, positive: Tensor, below: Tensor, above: Tensor, axis: int, spec: QuantSpec
    ) -> Tensor:
        ctx.save_for_backward(negative, positive, below, above)
        ctx.axis, ctx.spec = axis, spec
        return from_rows(above * positive - below * negative, weight, axis)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None, None]:
        """Levels: sums over the values that take them (equation 7; of -Wn with its sign). Weights: times Wp, 1 or Wn (equation 8)."""
        negative, positive, below, above = ctx.saved_tensors
        incoming = as_rows(gradient, ctx.spec, ctx.axis)
        low, high = incoming * below, incoming * above
        axes = (0, 1) if len(negative) == 1 else (1,)
        of_negative, of_positive = -low.sum(dim=axes, keepdim=True), high.sum(dim=axes, keepdim=True)
        of_weight = incoming.addcmul(high, positive - 1.0).addcmul_(low, negative - 1.0)
        return from_rows(of_weight, gradient, ctx.axis), of_negative, of_positive, None, None, None, None


def _covers_weight(spec: QuantSpec) -> bool:
    return spec.format == "ternary" and spec.clipping == "ttq"


METHOD = Method(TrainedTernary, ste.activation, _covers_weight, no_input, "two learned ternary levels (Zhu et al., ICLR 2017)")
