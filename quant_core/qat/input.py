"""The quantizer before a layer. Its learned step at the network's own input, such as images, needs no gradient of that input.

The gradient of a learned step s is <J^T g, d>, with the Jacobian J of the layer, the gradient g of its output and d the derivative of the
quantized input with respect to s. For a layer that is linear in its input this is <g, J d>: one more forward pass of the layer in place of
the gradient of its input, which no float step computes and which is several times as expensive for few input channels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core.network.forward import with_first_input
from quant_core.qat.method import InputQuantizer

INPUT = "input_quantizer"
LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def attach(module: nn.Module, quantizer: InputQuantizer) -> None:
    """Let `quantizer`, from now on the submodule `input_quantizer`, quantize the first input of `module`."""
    module.register_module(INPUT, quantizer)
    if quantizer.learned() is None or type(module) not in LINEAR:
        module.register_forward_pre_hook(_quantize, with_kwargs=True)
        return
    module.register_forward_pre_hook(_quantize_or_defer, with_kwargs=True)
    module.register_forward_hook(_learn, prepend=True)


def _quantizer(module: nn.Module) -> InputQuantizer:
    quantizer = module._modules[INPUT]
    assert isinstance(quantizer, InputQuantizer)
    return quantizer


def _quantize(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return with_first_input(args, kwargs, _quantizer(module))


def _quantize_or_defer(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """Quantize the input; where it needs no gradient itself, leave the gradient of the learned step to `_learn`."""
    quantizer = _quantizer(module)

    def change(x: Tensor) -> Tensor:
        quantized: Tensor = quantizer(x)
        if x.requires_grad or not quantized.requires_grad:
            return quantized
        quantizer.deferred = quantizer.slope(x)
        return quantized.detach()

    return with_first_input(args, kwargs, change)


def _learn(module: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
    """Give the learned value its part of the graph, where `_quantize_or_defer` left it out."""
    quantizer = _quantizer(module)
    slope, quantizer.deferred = quantizer.deferred, None
    if slope is None:
        return None
    with torch.no_grad():  # neither a second graph nor a second step of a range that follows the weight
        weight = module.weight
    learned: Tensor = _LinearFunction.apply(output, quantizer.learned(), slope, module, weight)  # type: ignore[no-untyped-call]
    return learned


class _LinearFunction(torch.autograd.Function):
    """The output of a layer, whose gradient is also that of the value on which the layer's input depends by `slope`."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, _learned: Tensor, slope: Tensor, module: nn.Module, weight: Tensor) -> Tensor:
        ctx.save_for_backward(slope, weight)
        ctx.module = module
        ctx.mark_dirty(output)  # the same tensor and no view of it, which what follows may change in place
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        slope, weight = ctx.saved_tensors
        slope = slope.to(weight.dtype)
        ahead = F.linear(slope, weight) if isinstance(ctx.module, nn.Linear) else ctx.module._conv_forward(slope, weight, None)
        return gradient, (gradient.float() * ahead.float()).sum(), None, None, None
