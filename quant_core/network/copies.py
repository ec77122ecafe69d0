"""Copies of networks that hold no second set of weights."""

import copy
from typing import Any

from torch import Tensor, nn


def sharing_copy(model: nn.Module) -> nn.Module:
    """Return a copy of `model` with modules, hooks and buffers of its own, whose parameters lie where those of `model` do.

    Its parameters are objects of their own: what is registered or set in their place changes the copy alone, and so do `requires_grad`
    and gradients. Nothing may write INTO them. Parameters of other classes than `nn.Parameter` are copied. Buffers, and tensors
    that modules keep as attributes, lose the graph that they were computed by, which torch does not copy.
    """
    memo: dict[int, Any] = {}
    for value in (value for module in model.modules() for value in (*vars(module).values(), *module._buffers.values())):
        if isinstance(value, Tensor) and value.grad_fn is not None:
            memo[id(value)] = value.detach().clone()
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter:
            memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    return copy.deepcopy(model, memo)


def versions(model: nn.Module) -> list[int]:
    """Return how often each parameter of `model` was written to: the same list as before where nothing was."""
    return [parameter._version for parameter in _plain(model)]


def _plain(model: nn.Module) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if not parameter.is_inference()]
