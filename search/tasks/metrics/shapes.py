"""Shapes of judged batches: in messages, and of the weights of their predictions."""

import torch
from torch import Tensor

from quant_core.util.errors import InputError
from search.tasks.metrics.state import Judged


def shapes_of(batch: Judged) -> str:
    """Return the shapes of a batch for a message."""
    targets = (
        f"targets of shape {tuple(batch.targets.shape)}" if isinstance(batch.targets, Tensor) else f"targets {type(batch.targets).__name__}"
    )
    return f"outputs of shape {tuple(batch.outputs.shape)}, {targets}"


def expanded_weights(batch: Judged, shape: torch.Size) -> Tensor:
    """Return the weights of predictions of `shape` in float64: of examples [N], or of every prediction; ones where there are none.

    Raises:
        InputError: the weights have another shape.
    """
    weights = batch.weights
    if weights is None:
        return torch.ones(shape, dtype=torch.float64, device=batch.outputs.device)
    if weights.shape == shape:
        return weights.double()
    if weights.shape == shape[:1]:
        return weights.double().reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    raise InputError(
        f"the sample weights of {batch.place} have the shape {tuple(weights.shape)}, its targets {tuple(shape)}; "
        f"give one weight per example, ({shape[0]},), or one per target."
    )
