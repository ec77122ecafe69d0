"""`dorefa`: weights squashed by tanh onto 2^bits levels without a zero (Zhou et al. 2016, arXiv:1606.06160).

Two things differ from the paper, so that training can start from a trained network: levels are scaled by max |tanh w| (the paper's lie in
[-1, 1], which batch norm makes equal), and inputs are clipped to their calibrated range (the paper's to [0, 1]): they are trained by `ste`.
"""

import torch
from torch import Tensor

from quant_core.codecs.affine import make_grid
from quant_core.qat import ste
from quant_core.qat.functions import straight_through
from quant_core.qat.method import Method, Stored, WeightQuantizer, no_input
from quant_core.qat.rows import blocks, from_rows
from quant_core.spec.quant_spec import QuantSpec, make


class TanhWeight(WeightQuantizer):
    """2^k levels, odd multiples of m / (2^k - 1) with m = max |tanh w| per tensor or channel: they are stored as k + 1 bit integers."""

    def __init__(self, _weight: Tensor, spec: QuantSpec, channel_axis: int) -> None:
        super().__init__(spec, channel_axis)
        self.storage = make("int", spec.bits + 1, spec.granularity)

    def forward(self, weight: Tensor) -> Tensor:
        """Return m (2 quantize_k(tanh(w) / (2 m) + 1/2) - 1) (equation 9), of one bit sign(w) E|w| (equation 7)."""
        squashed = weight if self.spec.bits == 1 else weight.tanh()
        rows, _ = blocks(squashed, self.spec, self.channel_axis)
        codes, scale = self._codes(rows)
        return straight_through(squashed, from_rows(codes * scale, weight, self.channel_axis), None)

    def _codes(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return odd integers, [R, C], and their scale, [R or 1, 1]."""
        levels = 2**self.spec.bits - 1
        top = self._top(rows)
        scale = make_grid(self.storage, -top, top, rows.shape[1]).scale
        if levels == 1:
            return torch.where(rows >= 0, 1.0, -1.0), torch.where(top > 0, scale, 0.0)
        unit = torch.where(top > 0, rows / (2.0 * top), 0.0) + 0.5
        return 2.0 * (levels * unit).round() - levels, torch.where(top > 0, scale, 0.0)

    def _top(self, rows: Tensor) -> Tensor:
        units = rows if self.spec.granularity == "channel" else rows.reshape(1, -1)
        if self.spec.bits == 1:
            return units.abs().mean(dim=1, keepdim=True)
        return units.abs().amax(dim=1, keepdim=True)

    def stored(self, weight: Tensor) -> Stored:
        """Return the quantized weight as integers of one more bit."""
        rows, _ = blocks(weight if self.spec.bits == 1 else weight.tanh(), self.spec, self.channel_axis)
        top = self._top(rows)
        with torch.no_grad():
            return self(weight), self.storage, (-top, top)


def _covers_weight(spec: QuantSpec) -> bool:
    return spec.format == "int" and spec.granularity in ("tensor", "channel") and spec.symmetric and spec.bits < 16 and spec.scale == "fp32"


METHOD = Method(TanhWeight, ste.activation, _covers_weight, no_input, "tanh weights on 2^bits levels without zero (Zhou et al., 2016)")
