"""Calling a user's model: `model(x)`, `model(*x)` for a tuple, `model(**x)` for a dict."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.util.errors import BitfrontError


def forward(model: nn.Module, inputs: Any) -> Tensor:
    """Run `model` on one batch of inputs; outputs that hold `logits` (transformers) are unwrapped.

    Raises:
        BitfrontError: it returns something else.
    """
    if isinstance(inputs, dict):
        outputs = model(**inputs)
    elif isinstance(inputs, tuple | list):
        outputs = model(*inputs)
    else:
        outputs = model(inputs)
    found = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if not isinstance(found, Tensor):
        raise BitfrontError(
            f"the network returned a {type(outputs).__name__}; a tensor, or an object with a tensor `logits`, is needed. "
            f"Wrap it in a module that returns the output to judge."
        )
    return found


def with_first_input(args: Any, kwargs: Any, change: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Return the arguments of a layer's call with its first one changed, given by position or by keyword."""
    if args:
        return (change(args[0]), *args[1:]), kwargs
    key, *_ = kwargs
    return args, {**kwargs, key: change(kwargs[key])}


def to_device(inputs: Any, device: torch.device) -> Any:
    """Move a batch's tensors to `device`, keeping its structure."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    if isinstance(inputs, dict):
        return {key: to_device(value, device) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return type(inputs)(to_device(value, device) for value in inputs)
    return inputs
