"""The weight of one layer while it is learned: soft between two neighbours of its grid, with factors of its scales and a bias."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quant_core.codecs import Encoded
from quant_core.codecs.quantize import decode
from quant_core.network.fold import TRANSPOSED
from quant_core.network.patches import weight_from_rows, weight_rows
from quant_core.ptq.adaround import GAMMA, ZETA
from quant_core.ptq.corrections import rescaled, row_sums, takes_gain
from quant_core.ptq.grids import grids_of, with_places
from quant_core.spec.layer import Layer
from quant_core.spec.quant_spec import QuantSpec

SOFT = 0.5
"""Where a rounding variable starts, on the way from the float value (0) to the start's value (1)."""


@dataclass(frozen=True, eq=False)
class LearnedWeight:
    """What a layer stores: its codes with their scales, and its bias or None."""

    encoded: Encoded
    bias: Tensor | None


class SoftWeight:
    """Learns which of two neighbouring grid values every weight takes: the start's, and the one on the float value's side of it.

    The weight is g (low + (up - low) h(V)) with the rectified sigmoid h (AdaRound, equation 23) and a factor g per float scale of a row.

    Attributes:
        v: the rounding variables, [G, O, K].

    Args:
        module: of the layer, not a parameter of another one.
        layer, spec: the layer, and how its weight is stored.
        weight: float.
        start: where it begins.
        unit: of the bias: the deviation of the layer's outputs.
    """

    def __init__(self, module: Any, layer: Layer, spec: QuantSpec, weight: Tensor, start: LearnedWeight, unit: float) -> None:
        self._module, self._axis, self._spec, self._start, self._unit = module, layer.channel_axis, spec, start, unit
        shape = tuple(weight.shape)
        self._grids, self._codes = grids_of(module, start.encoded, spec, shape, self._axis)
        begun = weight_rows(module, decode(start.encoded, spec, shape, channel_axis=self._axis))
        wanted, places = weight_rows(module, weight.float()), self._grids.nearest(begun)
        self._down = torch.where(wanted >= begun, places, places - 1).clamp(0, max(self._grids.top - 1, 0))
        self._low = self._grids.values(self._down)
        self._room = self._grids.values((self._down + 1).clamp(max=self._grids.top)) - self._low
        fraction = torch.where(self._room > 0, (wanted - self._low) / self._room.clamp_min(1e-30), torch.zeros_like(wanted)).clamp(0, 1)
        h = ((1 - SOFT) * fraction + SOFT * (places - self._down)).clamp(0.01, 0.99)
        self.v = torch.log((h - GAMMA) / (ZETA - h)).requires_grad_()
        self._rows = len(row_sums(module, torch.zeros(wanted.shape[:2])))
        self._gain = self._factors()
        self._shift = None if start.bias is None else torch.zeros_like(start.bias).requires_grad_()

    def values(self) -> Tensor:
        """Return the weight, in the shape of the module's, with its gradient."""
        rows = self._low + self._room * self._h()
        if self._gain is not None:
            gain = self._gain.exp().expand(self._rows)
            rows = rows * (gain.view(1, -1, 1) if isinstance(self._module, TRANSPOSED) else gain.view(*rows.shape[:2], 1))
        return weight_from_rows(self._module, rows).to(self._module.weight.dtype)

    def bias(self) -> Tensor | None:
        """Return the bias, with its gradient."""
        if self._start.bias is None or self._shift is None:
            return None
        return self._start.bias + self._unit * self._shift

    def pull(self, beta: float) -> tuple[Tensor, int]:
        """Return the sum of 1 - |2 h - 1|^beta over weights that have a choice, and how many do (AdaRound, equation 24)."""
        free = self._room > 0
        return ((1 - (2 * self._h() - 1).abs().pow(beta)) * free).sum(), int(free.sum())

    def others(self) -> list[Tensor]:
        """Return the other variables: logarithms of the factors, and the shift of the bias in its unit."""
        return [tensor for tensor in (self._gain, self._shift) if tensor is not None]

    def hardened(self) -> LearnedWeight:
        """Return the codes, scales and bias: every weight at the nearer of its two values, the factors within the scales."""
        with torch.no_grad():
            places = self._down + (self._h() >= 0.5).float() * (self._room > 0)
            encoded = with_places(self._module, self._start.encoded, places, self._codes, self._spec, self._axis)
            if self._gain is not None:
                encoded = rescaled(encoded, self._spec, self._gain.exp(), torch.ones_like(self._gain))
            bias = self.bias()
            return LearnedWeight(encoded, None if bias is None else bias.clone())

    def _h(self) -> Tensor:
        return (torch.sigmoid(self.v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def _factors(self) -> Tensor | None:
        """Return zeros for the logarithms of what the scales may be multiplied by: one per row or one for all; None where none may."""
        encoded = self._start.encoded
        scales = next((part for part in (encoded.coarse, encoded.codebook, encoded.scale) if part is not None), None)
        if scales is None or not takes_gain(self._spec) or len(scales) not in (1, self._rows):
            return None
        return torch.zeros(len(scales), device=self.v.device).requires_grad_()
