"""torch's encoder of padded sequences without nested tensors, which no hook can look into: with the same outputs."""

from typing import Any

import torch
from torch import Tensor, nn


def nesting_encoders(model: nn.Module) -> list[str]:
    """Return the names of the encoders that turn padded sequences into nested tensors, as `nn.TransformerEncoder` does by default."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.TransformerEncoder) and module.use_nested_tensor]


def without_nesting(encoder: Any) -> None:
    """Let an encoder of a private copy compute padded positions, and set them to zero behind its last layer, as nesting does."""
    encoder.use_nested_tensor = False
    encoder.layers[-1].register_forward_hook(_empty_padding, with_kwargs=True)


def _empty_padding(_layer: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
    """Set padded positions to zero where torch would nest: a padding mask alone, with the padding of every sequence at its end."""
    padding = kwargs.get("src_key_padding_mask")
    if padding is None or kwargs.get("src_mask") is not None or output.dim() != 3:
        return output
    padded = padding.bool()  # the encoder turns True into minus infinity
    if not torch._nested_tensor_from_mask_left_aligned(args[0], ~padded):
        return output
    return output.masked_fill(padded[..., None], 0.0)
