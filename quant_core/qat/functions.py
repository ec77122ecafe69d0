"""The autograd functions of quantization-aware training: quantized values forward, a straight-through gradient backward."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant_core.codecs.qparams import QParams
from quant_core.ptq.activation import TINY
from quant_core.qat import kernels


class StraightThrough(torch.autograd.Function):
    """Return `values` in place of `x`; the gradient of `x` is the incoming one times `factor` (None: times 1)."""

    @staticmethod
    def forward(ctx: Any, _x: Tensor, values: Tensor, factor: Tensor | None) -> Tensor:
        """Return `values`, the shape of `x`."""
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the masked gradient."""
        return (gradient if ctx.factor is None else gradient * ctx.factor), None, None


class AffineFunction(torch.autograd.Function):
    """Fake-quantize by `QParams`; gradient 1 where round(x / S) + Z lies within the codes, else 0 (the mask of torch)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: QParams) -> Tensor:
        """Return (clamp(round(x (1/S)) + Z, low, high) - Z) S."""
        ctx.save_for_backward(x)
        ctx.codes = codes
        return quantize(x, codes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the masked gradient."""
        (x,) = ctx.saved_tensors
        scale, zero, low, high = ctx.codes
        if compiled(x):
            gradient, out = _like(gradient, x), torch.empty_like(x)
            kernels.pass_inside(flat(x), flat(gradient), _inverse(scale), *_f32(zero, low, high), flat(out))
            return out, None
        codes = (x.float() * float(_inverse(scale))).round_().add_(zero)
        return gradient * ((codes >= low) & (codes <= high)), None


class StepFunction(torch.autograd.Function):
    """Learned step size quantization of an activation (LSQ, equations 1 to 5): also gives the gradient of the step.

    d/ds = -v/s + round(v/s) inside, -Qn or Qp outside (equation 3), times `gradient_scale` (section 2.2).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int, high: int, gradient_scale: float) -> Tensor:
        """Return clip(round(x / step), low, high) step; `step` is one positive value."""
        ctx.save_for_backward(x)
        ctx.step, ctx.low, ctx.high, ctx.gradient_scale = max(float(step), TINY), low, high, gradient_scale
        return quantize(x, QParams(ctx.step, 0, low, high))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Return the gradients of x and of the step."""
        (x,) = ctx.saved_tensors
        if compiled(x):
            gradient, out = _like(gradient, x), torch.empty_like(x)
            total = kernels.step_backward(flat(x), flat(gradient), _inverse(ctx.step), *_f32(ctx.low, ctx.high), flat(out))
            return out, x.new_tensor(total * ctx.gradient_scale), None, None, None
        slope, inside = step_slope(x, ctx.step, ctx.low, ctx.high)
        return gradient * inside, (gradient.float() * slope).sum() * ctx.gradient_scale, None, None, None


class ClipFunction(torch.autograd.Function):
    """PACT (Choi et al. 2018, arXiv:1805.06085): clip to [0, a], a learned; d/dx = 1 on [0, a), d/da = 1 where x >= a (equation 3)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: Tensor, top: int) -> Tensor:
        """Return round(clip(x, 0, a) top / a) a / top (equations 1 and 2); `top` is 2^bits - 1."""
        ctx.save_for_backward(x)
        ctx.clip = max(float(clip), TINY)
        return quantize(x, QParams(ctx.clip / top, 0, 0, top))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of x and of the clip."""
        (x,) = ctx.saved_tensors
        if compiled(x):
            gradient, out = _like(gradient, x), torch.empty_like(x)
            total = kernels.clip_backward(flat(x), flat(gradient), np.float32(ctx.clip), flat(out))
            return out, x.new_tensor(total), None
        above = x >= ctx.clip
        return gradient * ((x >= 0) & ~above), (gradient * above).float().sum(), None


def straight_through(x: Tensor, values: Tensor, factor: Tensor | None) -> Tensor:
    """Return `values`; the gradient of `x` is the incoming one times `factor` (None: times 1)."""
    result: Tensor = StraightThrough.apply(x, values, factor)  # type: ignore[no-untyped-call]
    return result


def affine(x: Tensor, codes: QParams) -> Tensor:
    """Return `x` fake-quantized by given codes, straight through inside them."""
    result: Tensor = AffineFunction.apply(x, codes)  # type: ignore[no-untyped-call]
    return result


def learned_step(x: Tensor, step: Tensor, low: int, high: int, gradient_scale: float) -> Tensor:
    """Return `x` fake-quantized by a learned step (LSQ)."""
    result: Tensor = StepFunction.apply(x, step, low, high, gradient_scale)  # type: ignore[no-untyped-call]
    return result


def learned_clip(x: Tensor, clip: Tensor, top: int) -> Tensor:
    """Return `x` fake-quantized to `top` + 1 codes on [0, clip], clip learned (PACT)."""
    result: Tensor = ClipFunction.apply(x, clip, top)  # type: ignore[no-untyped-call]
    return result


def step_slope(x: Tensor, step: float, low: int, high: int) -> tuple[Tensor, Tensor]:
    """Return the derivative of the quantized `x` with respect to the step (LSQ, equation 3), and where x is inside the codes."""
    steps = x.float() * float(_inverse(step))
    rounded = steps.round()
    clipped = rounded.clamp(low, high)
    inside = clipped == rounded
    return torch.where(inside, clipped - steps, clipped), inside


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """Return `x`; its gradient is the incoming one times `scale`."""
    result: Tensor = _ScaledGradient.apply(x, scale)  # type: ignore[no-untyped-call]
    return result


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


def quantize(x: Tensor, codes: QParams) -> Tensor:
    """Return `x` fake-quantized by given codes, in its dtype and memory order; the arithmetic is float32."""
    scale, zero, low, high = codes
    if compiled(x):
        out = torch.empty_like(x)
        kernels.forward(flat(x), _inverse(scale), np.float32(scale), *_f32(zero, low, high), flat(out))
        return out
    integers = (x.float() * float(_inverse(scale))).round_().add_(zero).clamp_(low, high)
    return integers.sub_(zero).mul_(float(np.float32(scale))).to(x.dtype)


def compiled(x: Tensor) -> bool:
    """Tell whether the compiled loops take `x`: float32 on the CPU, its elements without gaps or overlaps."""
    return x.dtype == torch.float32 and x.device.type == "cpu" and torch.ops.aten.is_non_overlapping_and_dense(x)


def flat(x: Tensor) -> NDArray[np.float32]:
    """Return the elements of a dense tensor in memory order, without a copy."""
    view: NDArray[np.float32] = x.detach().as_strided((x.numel(),), (1,)).numpy()
    return view


def _like(gradient: Tensor, x: Tensor) -> Tensor:
    """Return `gradient` in float32 and in the memory order of `x`."""
    if gradient.stride() == x.stride() and gradient.dtype == torch.float32:
        return gradient
    return torch.empty_like(x).copy_(gradient)


def _inverse(scale: float) -> np.float32:
    return np.float32(1.0) / np.float32(scale)


def _f32(*values: int) -> tuple[np.float32, ...]:
    return tuple(np.float32(value) for value in values)
