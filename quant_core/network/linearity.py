"""The linear part of a layer, apart from whatever its class or its hooks do around it.

Folding and corrections change weights and biases on the assumption that a layer is `W x + b`. That holds for torch's own layers. For a
subclass with a forward pass of its own it is tested on real inputs, and where it does not hold the layer is left alone.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from quant_core.network.trace import is_transformers_conv1d
from quant_core.util import rng

Response = Literal["own", "linear", "affine", "other"]
_TRANSPOSED: dict[Any, Any] = {
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}
_CONVOLUTIONS: dict[Any, Any] = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
_FORWARDS = {kind: (kind.forward, kind._conv_forward) for kind in _CONVOLUTIONS}
TOLERANCE = 1e-3
"""Of the largest output: what float32 leaves of a sum over a long patch; a response that is not linear is off by its own size."""


def has_hooks(module: nn.Module) -> bool:
    """Tell whether the module's own hooks may change what it is given or gives."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def is_torchs_own(module: nn.Module) -> bool:
    """Tell whether a layer or a batch norm computes exactly as torch's (or transformers' Conv1D) does: no forward pass of its own."""
    kind: Any = type(module)
    if kind.__call__ is not nn.Module.__call__:
        return False
    if isinstance(module, _BatchNorm):
        return kind.forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    for base, (forward, conv_forward) in _FORWARDS.items():
        if isinstance(module, base):
            return kind.forward is forward and kind._conv_forward is conv_forward
    if is_transformers_conv1d(module):
        return kind.forward is vars(next(base for base in kind.__mro__ if base.__name__ == "Conv1D"))["forward"]
    bases: tuple[Any, ...] = (nn.Linear, nn.Embedding, *_TRANSPOSED)
    return any(isinstance(module, base) and kind.forward is base.forward for base in bases)


def linear_operation(module: Any, weight: Tensor, x: Tensor) -> Tensor:
    """Return `weight` applied to `x` [N, ...] as torch's own layer of this kind does, without bias, hooks or the class's own forward pass.

    Raises:
        TypeError: the module is no Linear, Conv, ConvTranspose or transformers' Conv1D.
    """
    for base, operation in _TRANSPOSED.items():
        if isinstance(module, base):
            outputs: Tensor = operation(
                x, weight, None, module.stride, module.padding, module.output_padding, module.groups, module.dilation
            )
            return outputs
    for base, convolve in _CONVOLUTIONS.items():
        if isinstance(module, base):
            padding = module.padding
            if module.padding_mode != "zeros":
                x, padding = F.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode), 0
            result: Tensor = convolve(x, weight, None, module.stride, padding, module.dilation, module.groups)
            return result
    if is_transformers_conv1d(module):
        return x @ weight
    if isinstance(module, nn.Linear):
        return F.linear(x, weight)
    raise TypeError(f"{type(module).__name__} has no linear operation")


def response_kind(module: nn.Module, x: Tensor) -> Response:
    """Return how a layer's output depends on its weight and bias, tested on the input `x` [N, ...].

    `own`: torch's own layer. `linear`: a subclass whose output is a linear function of the weight, plus the bias (one that pads its input,
    say). `affine`: the same plus something that depends on neither (a low-rank adapter, a residual). `other`: anything else, which
    includes every subclass with hooks.
    """
    if is_torchs_own(module):
        return "own"
    if has_hooks(module) or not isinstance(module.__dict__.get("_parameters", {}).get("weight"), Tensor):
        return "other"
    weight = module.get_parameter("weight").detach()
    generator = rng.generator(0)
    other = (torch.randn(weight.shape, generator=generator).to(weight) * weight.std(correction=0)).to(weight.dtype)
    try:
        with torch.no_grad():
            constant = _response(module, torch.zeros_like(weight), x)
            one, two = (_response(module, values, x) - constant for values in (weight, other))
            both, large = (_response(module, values, x) - constant for values in (weight + other, 64 * weight))
            bias = module._parameters.get("bias")
            shift = None if bias is None else _response(module, weight, x, torch.arange(1.0, len(bias) + 1).to(bias)) - one - constant
    except Exception:  # a forward pass that needs more than one input, or cannot run by itself
        return "other"
    scale = float(one.abs().amax() + two.abs().amax())
    linear = _near(both, one + two, scale) and _near(large, 64 * one, 64 * scale) and scale > 0
    if not linear or (shift is not None and not _is_bias(shift, scale)):
        return "other"
    return "linear" if float(constant.abs().amax()) <= TOLERANCE * scale else "affine"


def weight_response(module: nn.Module, weight: Tensor, x: Tensor, kind: Response) -> Tensor | None:
    """Return the part of a layer's output on `x` [N, ...] that is linear in the weight; None where there is no such part."""
    if kind == "own":
        return linear_operation(module, weight, x)
    if kind == "other":
        return None
    return _response(module, weight, x) - _response(module, torch.zeros_like(weight), x)


def _response(module: nn.Module, weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    parameters = {"weight": weight}
    if module._parameters.get("bias") is not None:
        parameters["bias"] = torch.zeros_like(module.get_parameter("bias")) if bias is None else bias
    outputs: Tensor = functional_call(module, parameters, (x,))
    return outputs


def _near(one: Tensor, other: Tensor, scale: float) -> bool:
    return bool(torch.isfinite(one).all()) and float((one - other).abs().amax()) <= TOLERANCE * scale


def _is_bias(shift: Tensor, scale: float) -> bool:
    """Tell whether adding 1, 2, ... to the bias added just that to the output channels, on axis 1 or on the last one."""
    views = (shift, shift.movedim(1, -1)) if shift.dim() > 1 else (shift,)
    counts = [torch.arange(1.0, view.shape[-1] + 1).to(view).expand(view.shape) for view in views]
    return any(_near(view, count, max(scale, float(count.amax()))) for view, count in zip(views, counts, strict=True))
