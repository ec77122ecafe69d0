"""Rotations at run time of the inputs of linear layers that no fused rotation reaches: x H before the product, W H in its place.

R4 of SpinQuant (arXiv 2405.16406) and the online Hadamard of QuaRot (arXiv 2404.00456), section 4.1. It is exact for any linear layer,
whatever makes its input. The rotation is a Kronecker product of two small matrices, buffers of the layer, so that a row of n inputs takes
n (a + b) multiply-accumulates with a b = n.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.network.forward import with_first_input
from quant_core.transforms.maps import ChannelMap, random_rotation
from quant_core.transforms.parts import map_input

LEFT, RIGHT = "input_rotation_left", "input_rotation_right"
FEWEST = 16
"""Inputs below which there is nothing to spread."""


def rotate_input(module: Any, seed: int) -> None:
    """Let a linear layer rotate its input before the product; its outputs stay."""
    inputs = int(module.weight.numel() // _outputs(module))
    rows = _rows(inputs)
    left, right = random_rotation(rows, seed), random_rotation(inputs // rows, seed + 1)
    map_input(module, ChannelMap(inputs, torch.kron(left, right)))
    for name, matrix in ((LEFT, left), (RIGHT, right)):
        module.register_buffer(name, matrix.to(module.weight))
    module.register_forward_pre_hook(rotated_input, with_kwargs=True)


def rotated_input(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """Return a call's arguments with the first input rotated by the matrices that the module holds."""
    left, right = module.get_buffer(LEFT), module.get_buffer(RIGHT)

    def rotated(x: Tensor) -> Tensor:
        blocks = x.reshape(*x.shape[:-1], left.shape[0], right.shape[0])
        return (left.t() @ (blocks @ right)).reshape(x.shape)

    return with_first_input(args, kwargs, rotated)


def restore_rotations(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Let those layers rotate their input for which `tensors`, of a stored network, hold the matrices."""
    for name in tensors:
        place, _, key = name.rpartition(".")
        module = model.get_submodule(place) if key == LEFT else None
        if module is not None and key not in module._buffers:
            for side in (LEFT, RIGHT):
                module.register_buffer(side, tensors[f"{place}.{side}".lstrip(".")])
            module.register_forward_pre_hook(rotated_input, with_kwargs=True)


def _outputs(module: Any) -> int:
    return int(module.weight.shape[0] if isinstance(module, nn.Linear) else module.weight.shape[1])


def _rows(inputs: int) -> int:
    """Return the largest power of two that divides `inputs` and whose square is at most that."""
    rows = 1
    while inputs % (2 * rows) == 0 and 4 * rows * rows <= inputs:
        rows *= 2
    return rows
