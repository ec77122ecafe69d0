"""The weight of one layer while it is learned: soft between two neighbours of its grid, with factors of its scales and a bias."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quant_core.codecs import Encoded
from quant_core.codecs.quantize import decode
from quant_core.network.patches import weight_from_rows, weight_rows
from quant_core.ptq.adaround import GAMMA, ZETA
from quant_core.ptq.grids import grids_of, with_places
from quant_core.reconstruct.factors import ScaleFactors
from quant_core.spec.layer import Layer
from quant_core.spec.quant_spec import QuantSpec

SOFT = 0.5
"""Where a rounding variable starts, on the way from the float value (0) to the start's value (1)."""


@dataclass(frozen=True, eq=False)
class LearnedWeight:
    """What a layer stores: its codes with their scales, and its bias or None."""

    encoded: Encoded
    bias: Tensor | None


class Adjustments:
    """What is learned of a layer beside its codes: factors of its float scales, and its bias.

    Attributes:
        factors: of the scales.

    Args:
        start: where it begins.
        spec, channel_axis: how the weight is stored.
        unit: of the bias: the deviation of the layer's outputs.
    """

    def __init__(self, start: LearnedWeight, spec: QuantSpec, channel_axis: int, unit: float) -> None:
        self.factors = ScaleFactors(start.encoded, spec, channel_axis)
        self._bias, self._unit = start.bias, unit
        self._shift = None if start.bias is None else torch.zeros_like(start.bias).requires_grad_()

    def bias(self) -> Tensor | None:
        """Return the bias, with its gradient."""
        return None if self._bias is None or self._shift is None else self._bias + self._unit * self._shift

    def variables(self) -> list[Tensor]:
        """Return the logarithms of the factors, and the shift of the bias in its unit."""
        return [tensor for tensor in (self.factors.log, self._shift) if tensor is not None]

    def stored(self, encoded: Encoded) -> LearnedWeight:
        """Return codes with the factors within their scales, and the bias."""
        bias = self.bias()
        return LearnedWeight(self.factors.within(encoded), None if bias is None else bias.detach().clone())


class FixedWeight:
    """A weight whose codes stay, while the factors of its scales and its bias are learned. Arguments as of `SoftWeight`."""

    def __init__(self, module: Any, layer: Layer, spec: QuantSpec, start: LearnedWeight, unit: float) -> None:
        weight, self._start = module.weight, start
        self._dtype = weight.dtype
        self._values = decode(start.encoded, spec, tuple(weight.shape), channel_axis=layer.channel_axis)
        self._beside = Adjustments(start, spec, layer.channel_axis, unit)

    def values(self) -> Tensor:
        """Return the weight, in the shape of the module's, with its gradient."""
        return self._beside.factors.on(self._values).to(self._dtype)

    def bias(self) -> Tensor | None:
        """Return the bias, with its gradient."""
        return self._beside.bias()

    def others(self) -> list[Tensor]:
        """Return the variables."""
        return self._beside.variables()

    def hardened(self) -> LearnedWeight:
        """Return the codes, scales and bias."""
        return self._beside.stored(self._start.encoded)


class SoftWeight:
    """Learns which of two neighbouring grid values every weight takes: the start's, and the one on the float value's side of it.

    The weight is g (low + (up - low) h(V)) with the rectified sigmoid h (AdaRound, equation 23) and a factor g per float scale.

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
        self._module, self._axis, self._spec, self._start = module, layer.channel_axis, spec, start
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
        self._beside = Adjustments(start, spec, self._axis, unit)

    def values(self) -> Tensor:
        """Return the weight, in the shape of the module's, with its gradient."""
        rows = weight_from_rows(self._module, self._low + self._room * self._h())
        return self._beside.factors.on(rows).to(self._module.weight.dtype)

    def bias(self) -> Tensor | None:
        """Return the bias, with its gradient."""
        return self._beside.bias()

    def pull(self, beta: float) -> tuple[Tensor, int]:
        """Return the sum of 1 - |2 h - 1|^beta over weights that have a choice, and how many do (AdaRound, equation 24)."""
        free = self._room > 0
        return ((1 - (2 * self._h() - 1).abs().pow(beta)) * free).sum(), int(free.sum())

    def others(self) -> list[Tensor]:
        """Return the other variables: logarithms of the factors, and the shift of the bias in its unit."""
        return self._beside.variables()

    def hardened(self) -> LearnedWeight:
        """Return the codes, scales and bias: every weight at the nearer of its two values, the factors within the scales."""
        with torch.no_grad():
            places = self._down + (self._h() >= 0.5).float() * (self._room > 0)
            encoded = with_places(self._module, self._start.encoded, places, self._codes, self._spec, self._axis)
            return self._beside.stored(encoded)

    def _h(self) -> Tensor:
        return (torch.sigmoid(self.v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
