"""Fake quantization of a layer's input, static (range from calibration) or dynamic (range from each batch)."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from quant_core.clipping import from_statistics
from quant_core.codecs.qparams import QParams
from quant_core.codecs.quantize import fake_quantize, saturated
from quant_core.codecs.scales import FLOAT_MAX
from quant_core.network.statistics import TensorStatistics
from quant_core.spec.policy import Policy
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import BitfrontError, InputError

TINY = 1e-30
_CHUNK = 2**18
_DIFFERENTIATED = (
    "the network differentiates itself in its forward pass, and a quantized input has no derivative; leave activations in float: "
    "activation = 'float'"
)


class ActivationQuantizer:
    """Fake-quantizes inputs by `spec`; the result has the input's shape and dtype.

    Integers per tensor take one range: of the calibration `statistics`, or with `dynamic` of each batch. Symmetric codes are unsigned
    (0 to 2^bits - 1) where no value was negative, else two's complement. Everything else is dynamic: per token (every position along
    all axes but the channel axis has its own range), and formats with blocks (groups, vectors, mx*, nvfp4), which run along the channel
    axis, the axis that a layer sums over.

    Args:
        spec: how to quantize; not float.
        statistics: of this layer's input; needed for the static integers.
        channel_axis: 1 for the input of convolutions, -1 for linear layers.

    Attributes:
        static: the quantization parameters where the range comes from calibration, else None.

    Raises:
        InputError: the spec has one range per channel (a sum over channels cannot undo that), is static without statistics, or weighted.
    """

    def __init__(self, spec: QuantSpec, statistics: TensorStatistics | None, channel_axis: int = -1) -> None:
        if spec.granularity == "channel":
            raise InputError(f"activation {spec}: one range per channel cannot be taken out of a layer's sum; use tensor or token.")
        if spec.weighted:
            raise InputError(f"activation {spec}: only errors of weights are weighted, by what their inputs weigh; leave weighted out.")
        self.spec, self._axis = spec, channel_axis
        self.static: QParams | None = None
        if spec.format == "int" and spec.granularity == "tensor" and not spec.dynamic:
            if statistics is None:
                raise InputError(f"activation {spec}: it is static, but there are no calibration statistics; write {spec}:dynamic.")
            self.static = range_qparams(*from_statistics(statistics, spec), spec)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the fake-quantized `x`."""
        if self.static is not None:
            return to_grid(x, *self.static)
        if self.spec.format == "int" and self.spec.granularity == "tensor":
            return to_grid(x, *range_qparams(*_batch_range(x, self.spec), self.spec))
        return _along_channels(x, self._axis, lambda rows: fake_quantize(rows, self.spec))


def ranges_whole_batches(policy: Policy) -> bool:
    """Tell whether an input is quantized by what its batch holds (one range or scale for all, or noise): parts give other outputs then."""
    return any(_by_batch(layer.activation) for layer in policy.values())


def _by_batch(spec: QuantSpec) -> bool:
    if spec.is_float:
        return False
    if spec.granularity == "tensor" and (spec.format != "int" or spec.dynamic):
        return True
    return spec.format == "nvfp4" or spec.coarse == "tensor" or spec.rounding == "stochastic"


def range_qparams(low: float, high: float, spec: QuantSpec) -> QParams:
    """Return the quantization parameters of the range [low, high]; (0, high) of a symmetric spec is unsigned.

    The scale is a float32, at least `TINY`, and no larger than keeps every value finite.
    """
    top = 2**spec.bits - 1
    if spec.symmetric and low < 0:
        half = 2 ** (spec.bits - 1)
        return QParams(_scale(high / max(half - 1, 1), half), 0, -half, half - 1)
    scale = _scale((high - low) / top, top)
    return QParams(scale, min(max(round(-low / scale), 0), top), 0, top)


def _scale(wanted: float, reach: int) -> float:
    return float(np.float32(min(max(wanted, TINY), FLOAT_MAX / reach * (1.0 - 2.0**-20))))


def to_grid(x: Tensor, scale: float, zero_point: int, low: int, high: int) -> Tensor:
    """Return (clamp(round(x (1 / scale)) + zero_point, low, high) - zero_point) scale.

    The bits are those of torch.fake_quantize_per_tensor_affine. The arithmetic is float32 whatever the dtype; NaN stays NaN. It runs in
    pieces that stay in the cache, because every pass over a fresh tensor costs page faults.

    Raises:
        BitfrontError: gradients of the input are recorded.
    """
    if x.requires_grad and torch.is_grad_enabled():
        raise BitfrontError(_DIFFERENTIATED)
    if x.dtype != torch.float32:
        return saturated(to_grid(x.to(torch.float32), scale, zero_point, low, high), x.dtype)
    inverse, step = float(np.float32(1.0) / np.float32(scale)), float(np.float32(scale))
    out = torch.empty_like(x, memory_format=torch.preserve_format)
    source, result = (x.view(-1), out.view(-1)) if x.is_contiguous() else (x[None], out[None])
    for start in range(0, len(source), _CHUNK):
        piece, target = source[start : start + _CHUNK], result[start : start + _CHUNK]
        torch.mul(piece, inverse, out=target).round_().clamp_(low - zero_point, high - zero_point).mul_(step)
    return out


def _batch_range(x: Tensor, spec: QuantSpec) -> tuple[float, float]:
    if not x.numel():
        return 0.0, 0.0
    low, high = (float(end) for end in x.aminmax())
    if spec.clipping not in ("minmax", "ema"):
        statistics = TensorStatistics("dynamic")
        statistics.update(x)
        return from_statistics(statistics, spec)
    if spec.symmetric and low < 0:
        return -max(-low, high), max(-low, high)
    return min(low, 0.0), max(high, 0.0)


def _along_channels(x: Tensor, axis: int, quantize: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `quantize` to `x` seen as [everything else, channels]."""
    if not x.dim():
        return quantize(x.reshape(1, 1)).reshape(())
    moved = x.movedim(axis, -1)
    flat = moved.reshape(-1, moved.shape[-1])
    return quantize(flat).reshape(moved.shape).movedim(-1, axis)
