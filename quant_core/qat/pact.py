"""`pact`: inputs clipped at a learned threshold (Choi et al. 2018, arXiv:1805.06085), for inputs that are never negative."""

import torch
from torch import Tensor, nn

from quant_core.clipping import from_statistics
from quant_core.codecs.qparams import QParams
from quant_core.network.statistics import TensorStatistics
from quant_core.ptq.activation import TINY
from quant_core.qat import ste
from quant_core.qat.functions import learned_clip
from quant_core.qat.method import InputQuantizer, Method, is_static, no_weight
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import InputError


class ClipInput(InputQuantizer):
    """Clips to [0, a] and rounds to 2^bits levels; `clip` is a. It starts at the calibrated range, and decays (L2, section 3)."""

    decays = True

    def __init__(self, spec: QuantSpec, statistics: TensorStatistics | None, _channel_axis: int = -1) -> None:
        super().__init__()
        if statistics is None or not statistics.unsigned:
            raise InputError(f"activation {spec}: pact needs calibration statistics of an input that is never negative; use ste or lsq.")
        self.top = 2**spec.bits - 1
        self.clip = nn.Parameter(torch.tensor(max(from_statistics(statistics, spec)[1], TINY), dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantized input."""
        return learned_clip(x, self.clip, self.top)

    def learned(self) -> nn.Parameter:
        """Return the clip."""
        return self.clip

    def slope(self, x: Tensor) -> Tensor:
        """Return 1 where x >= a, else 0 (equation 3)."""
        return (x >= max(float(self.clip.detach()), TINY)).float()

    def codes(self) -> QParams:
        """Return (a / (2^bits - 1), 0, 0, 2^bits - 1)."""
        return QParams(max(float(self.clip.detach()), TINY) / self.top, 0, 0, self.top)


def _covers_input(spec: QuantSpec, statistics: TensorStatistics | None) -> bool:
    return is_static(spec) and statistics is not None and statistics.unsigned


METHOD = Method(ste.weight, ClipInput, no_weight, _covers_input, "learned clip of non-negative inputs (Choi et al., 2018)")
