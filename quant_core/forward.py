"""Calling a user's model: `model(x)`, `model(*x)` for a tuple, `model(**x)` for a dict."""

from typing import Any

import torch
from torch import Tensor, nn


def forward(model: nn.Module, inputs: Any) -> Tensor:
    """Run `model` on one batch of inputs; outputs that hold `logits` (transformers) are unwrapped."""
    if isinstance(inputs, dict):
        outputs = model(**inputs)
    elif isinstance(inputs, tuple | list):
        outputs = model(*inputs)
    else:
        outputs = model(inputs)
    return outputs if isinstance(outputs, Tensor) else outputs.logits


def to_device(inputs: Any, device: torch.device) -> Any:
    """Move a batch's tensors to `device`, keeping its structure."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    if isinstance(inputs, dict):
        return {key: to_device(value, device) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return type(inputs)(to_device(value, device) for value in inputs)
    return inputs
