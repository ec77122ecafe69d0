"""Factors of the float scales of one weight while it is learned: one per scale, kept as logarithms."""

import torch
from torch import Tensor

from quant_core.codecs import Encoded
from quant_core.codecs.blocks import expand_blocks
from quant_core.codecs.codebook import channels_per_book
from quant_core.ptq.corrections import float_scales, takes_gain, with_float_scales
from quant_core.spec.quant_spec import QuantSpec

LARGEST = 1.0
"""Of a logarithm, in magnitude."""


class ScaleFactors:
    """Multiplies a weight, and the scales that it is stored with, by factors that have gradients.

    Attributes:
        log: the logarithms, one per row and block, codebook or tensor, 0 at first; None where the format has no float scale that may
            take any factor.

    Args:
        encoded, spec: how the weight is stored.
        channel_axis: of its output channels.
    """

    def __init__(self, encoded: Encoded, spec: QuantSpec, channel_axis: int) -> None:
        scales = float_scales(encoded, spec) if takes_gain(spec) else None
        self._spec, self._axis = spec, channel_axis
        self.log: Tensor | None = None
        if scales is not None and spec.granularity != "token":
            per_block = encoded.coarse is None and encoded.codebook is None and spec.clipping != "ttq"
            shape = scales.shape if per_block else (len(scales), 1)
            self.log = torch.zeros(shape, device=scales.device).requires_grad_()

    def on(self, weight: Tensor) -> Tensor:
        """Return `weight`, in the shape of the module's, times the factors, with their gradient."""
        if self.log is None:
            return weight
        moved = weight.movedim(self._axis, 0)
        rows = moved.reshape(len(moved), -1)
        factors = self._factors(self.log)
        if self._spec.format == "kmeans":
            factors = factors.repeat_interleave(channels_per_book(self._spec, len(rows)), dim=0)[: len(rows)]
        block = self._spec.block or rows.shape[1]
        return (rows * expand_blocks(factors, min(block, rows.shape[1]), rows.shape[1])).reshape(moved.shape).movedim(0, self._axis)

    def within(self, encoded: Encoded) -> Encoded:
        """Return `encoded` with its scales times the factors."""
        scales = float_scales(encoded, self._spec)
        if self.log is None or scales is None:
            return encoded
        return with_float_scales(encoded, self._spec, scales * self._factors(self.log.detach()))

    def _factors(self, log: Tensor) -> Tensor:
        return log.clamp(-LARGEST, LARGEST).exp()
