"""Calibration without data: batches that are made of the statistics in a network's batch norms, once, and kept in the cache folder."""

from typing import Any

import torch
from torch import Tensor, nn

from quant_core.network import batch_norms
from quant_core.network.forward import forward
from quant_core.network.reference import reference_network
from quant_core.util.errors import InputError
from search.tasks.cache import digest, trained
from search.tasks.task import Batch, Task

EXAMPLES = 64


class Synthetic(list[Batch]):
    """Batches that were made, not read."""


def synthetic(task: Task, inputs: Any, count: int) -> Synthetic:
    """Return calibration batches of `count` (0: 64) inputs like `inputs`, made of the network's batch norms alone.

    Targets are what the network says of them: its class, where it has classes, else its outputs.

    Args:
        task: its network and class axis are read, no split.
        inputs: one batch of the network, for the shape.
        count: of inputs.

    Raises:
        InputError: the network takes something else than one float tensor, or has no batch norm that keeps statistics.
        BitfrontError: the statistics are not finite.
    """
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        taken = f"{inputs.dtype} tensors" if isinstance(inputs, Tensor) else f"a {type(inputs).__name__}"
        raise InputError(f"calib_from = 'batch_norms' makes one float tensor, and the network takes {taken}; give calibration data.")
    model, shape, count = reference_network(task.model, quiet=True), list(inputs.shape[1:]), count or EXAMPLES
    recipe = {"weights": digest(dict(model.state_dict())), "shape": shape, "count": count, "network": str(model)}

    def make() -> dict[str, Tensor]:
        return {f"{i:04}": part for i, part in enumerate(batch_norms.synthetic_inputs(model, shape, count))}

    kept = trained("calibration", recipe, make, (batch_norms.__name__,))
    return Synthetic((part, _targets(task, model, part)) for _, part in sorted(kept.items()))


def _targets(task: Task, model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        outputs = forward(model, inputs).cpu()
    return outputs if task.logits_axis is None else outputs.argmax(dim=task.logits_axis)
