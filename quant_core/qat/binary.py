"""`binary`: binary weights (BWN of XNOR-Net, Rastegari et al., ECCV 2016, arXiv:1603.05279; BinaryConnect, Courbariaux et al., 2015).

Inputs of format `binary` make it XNOR-Net; they are trained by `ste`, whose gradient there is that of section 3.2, 1 where |x| <= 1.
"""

from dataclasses import replace

import torch
from torch import Tensor

from quant_core.codecs.quantize import as_rows, fake_quantize
from quant_core.qat import ste
from quant_core.qat.functions import scale_gradient, straight_through
from quant_core.qat.method import Method, WeightQuantizer, no_input
from quant_core.qat.rows import from_rows
from quant_core.spec.quant_spec import QuantSpec


class BinaryWeight(WeightQuantizer):
    """a sign(w) with a = mean |w| per channel or tensor (equation 6), or sign(w) alone; 0 counts as +.

    With stochastic rounding the sign is drawn while training (BinaryConnect, equations 2 and 3); at test time it is the sign.
    Beyond the paper, the gradient is multiplied by one constant per layer, 1 / mean |w| at the start: the factor a makes the steps of SGD
    that much smaller than those of the float network (the authors' code multiplies by n).
    """

    def __init__(self, initial: Tensor, spec: QuantSpec, channel_axis: int) -> None:
        super().__init__(spec, channel_axis)
        self.noisy = replace(spec, rounding="stochastic") if self.stochastic else self.spec
        self.rate = 1.0 if spec.granularity == "none" else 1.0 / max(float(initial.detach().abs().mean()), 1e-6)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the binary weight."""
        values = fake_quantize(weight, self.noisy if self.training else self.spec, channel_axis=self.channel_axis)
        return straight_through(scale_gradient(weight, self.rate), values, self.factor(weight) if weight.requires_grad else None)

    def factor(self, weight: Tensor) -> Tensor:
        """Return 1/n + a 1{|w| <= 1} (section 3.1), n values per scale; without a scale 1{|w| <= 1} (BinaryConnect, section 2.4)."""
        rows = as_rows(weight, self.spec, self.channel_axis)
        inside = (rows.abs() <= 1.0).to(torch.float32)
        if self.spec.granularity == "none":
            return from_rows(inside, weight, self.channel_axis)
        units = rows if self.spec.granularity == "channel" else rows.reshape(1, -1)
        mean = units.abs().mean(dim=1, keepdim=True)
        return from_rows(inside.mul_(mean).add_(1.0 / units.shape[1]), weight, self.channel_axis)

    def constrain(self, weight: Tensor) -> None:
        """Clip the master weight to [-1, 1] (BinaryConnect, section 2.4)."""
        weight.clamp_(-1.0, 1.0)


def _covers_weight(spec: QuantSpec) -> bool:
    return spec.format == "binary"


METHOD = Method(BinaryWeight, ste.activation, _covers_weight, no_input, "binary weights, per-channel scale (XNOR-Net, ECCV 2016)")
