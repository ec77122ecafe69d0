"""The pieces of the zoo of many networks: a case, its batches, and what would be stored, counted from shapes alone."""

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

COUNT, PART = 24, 12
"""Examples of a case, and of a batch."""


@dataclass(frozen=True)
class Case:
    """One network of the zoo.

    Attributes:
        model: makes it.
        inputs: makes `COUNT` examples in the structure that it takes.
        output: the part of its outputs that is judged, as `Task` takes it.
        classes: the outputs are logits of classes.
        left: shell patterns of parameters of two or more axes that stay in float: they are added or looked at, and in no product.
        onnx: the exporter writes it; otherwise it refuses.
    """

    model: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    output: Any = ""
    classes: bool = True
    left: tuple[str, ...] = ()
    onnx: bool = True


def batches(inputs: Any) -> list[Any]:
    """Return the examples in batches, each in the structure of the inputs."""
    cuts = [slice(at, at + PART) for at in range(0, COUNT, PART)]
    return [_cut(inputs, cut) for cut in cuts]


def _cut(inputs: Any, cut: slice) -> Any:
    return tree_map(lambda leaf: leaf[cut] if isinstance(leaf, Tensor) else leaf, inputs)


def randomized(model: nn.Module) -> nn.Module:
    """Return a network with norms as after training, in eval mode."""
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.3, 2)
    return model.eval()


def stored_bytes(model: nn.Module, bits: int, left: tuple[str, ...]) -> tuple[float, float]:
    """Return the bytes of all parameters, and of those that are quantized, at `bits` with one float32 scale per tensor.

    Counted from shapes alone: parameters of two or more axes are quantized unless a pattern of `left` names them; those of fewer axes,
    and those that are left, are float32; what lies at one place in memory is stored once.
    """
    total = quantized = 0.0
    seen: set[tuple[int, torch.Size]] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        place = parameter.data_ptr(), parameter.shape
        if place in seen:
            continue
        seen.add(place)
        is_left = parameter.dim() < 2 or any(fnmatch.fnmatchcase(name, pattern) for pattern in left)
        size = (8.0 if parameter.is_complex() else 4.0) * parameter.numel() if is_left else parameter.numel() * bits / 8 + 4.0
        total += size
        quantized += 0.0 if is_left else size
    return total, quantized


def images(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(COUNT, *shape)


def tokens(length: int = 8, vocabulary: int = 32) -> Callable[[], Tensor]:
    return lambda: torch.randint(1, vocabulary, (COUNT, length))
