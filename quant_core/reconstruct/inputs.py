"""The input of one layer while its block is learned: quantized value by value at random, its step learned."""

import math

import numpy as np
import torch
from torch import Tensor

from quant_core.codecs.qparams import QParams
from quant_core.network.statistics import TensorStatistics
from quant_core.ptq.activation import TINY, ActivationQuantizer
from quant_core.qat.functions import learned_step
from quant_core.qat.method import InputQuantizer
from quant_core.qat.ste import activation
from quant_core.spec.quant_spec import QuantSpec


class Drops:
    """Random choices of a share of values, from a seeded generator of its own."""

    def __init__(self, share: float, seed: int) -> None:
        self._share, self._random = share, np.random.Generator(np.random.SFC64(seed))

    def mixed(self, quantized: Tensor, exact: Tensor) -> Tensor:
        """Return `quantized` with the share of values taken from `exact` (QDrop, equation 8)."""
        return quantized if not self._share else torch.where(self.mask(quantized), exact, quantized)

    def mask(self, like: Tensor) -> Tensor:
        """Return booleans in the shape of `like`, true with the probability of the share."""
        count = like.numel()
        if self._share == 0.5:
            drawn = np.unpackbits(np.frombuffer(self._random.bytes(-(-count // 8)), dtype=np.uint8), count=count)
            return torch.from_numpy(drawn).view(torch.bool).view(like.shape).to(like.device)
        return torch.from_numpy(self._random.random(count, dtype=np.float32) < self._share).view(like.shape).to(like.device)


class LearnedInput:
    """Quantizes a layer's input; a symmetric static step is learned by LSQ's gradient, as the logarithm of its factor.

    Attributes:
        factor: what is learned, or None.
    """

    def __init__(self, spec: QuantSpec, statistics: TensorStatistics | None, channel_axis: int, device: torch.device | None = None) -> None:
        self.quantizer = ActivationQuantizer(spec, statistics, channel_axis)
        grid = self.quantizer.static
        self.factor = (
            torch.zeros((), device=device).requires_grad_() if grid is not None and grid.zero_point == 0 and spec.symmetric else None
        )
        self._else: InputQuantizer | None = None if self.factor is not None else activation(spec, statistics, channel_axis).eval()

    def __call__(self, x: Tensor, drops: Drops) -> Tensor:
        """Return the input, some values quantized."""
        grid = self.quantizer.static
        if self.factor is None or grid is None:
            assert self._else is not None
            return drops.mixed(self._else(x), x)
        step = grid.scale * self.factor.exp()
        features = max(x.numel() // max(x.shape[0], 1), 1)
        scale = 1.0 / math.sqrt(features * max(grid.quant_max, 1))
        return drops.mixed(learned_step(x, step, grid.quant_min, grid.quant_max, scale), x)

    def restart(self) -> None:
        """Take the present grid for the start of what is learned."""
        if self.factor is not None:
            self.factor.data.zero_()

    def learned(self) -> QParams | None:
        """Return the static grid."""
        grid = self.quantizer.static
        if grid is None or self.factor is None:
            return grid
        return grid._replace(scale=max(float(np.float32(grid.scale * float(self.factor.detach().exp()))), TINY))
