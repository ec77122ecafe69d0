"""The inputs and outputs of one layer while a stretch of the network runs: what a layer that is learned alone needs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.network.forward import first_input
from quant_core.reconstruct.held import Held, Room

Forward = Callable[[int, Tensor | None], Tensor]


def captured(forward: Forward, sources: Sequence[Tensor] | Held | None, count: int, module: nn.Module, room: Room) -> tuple[Held, Held]:
    """Return the inputs and outputs of all calls of `module`, in order, while `forward` runs all `count` parts; one pass.

    The inputs are as they come, before the layer quantizes them.
    """
    inputs, outputs = Held(room), Held(room)

    def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs.add(first_input(args, kwargs).detach().clone())

    def after(_module: nn.Module, _args: Any, output: Tensor) -> None:
        outputs.add(output.detach().clone())

    handles = [module.register_forward_pre_hook(before, with_kwargs=True, prepend=True), module.register_forward_hook(after)]
    try:
        with torch.no_grad():
            for index in range(count):
                forward(index, None if sources is None else sources[index])
    finally:
        for handle in handles:
            handle.remove()
    return inputs, outputs
