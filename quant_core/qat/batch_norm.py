"""Batch norm while quantized weights train: statistics estimated anew, then frozen."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from quant_core.network.batch_norms import tracked

BATCHES = 50
"""Number of batches over which statistics are estimated."""


def reestimate(model: nn.Module, run: Callable[[Any], object], batches: Iterable[Any]) -> None:
    """Set the running statistics to the plain average over `batches` with the weights as they are now; everything else in eval mode.

    Low-bit weights jump between levels, so moving averages lag behind them (Nagel et al. 2022, arXiv:2203.11086, section 2.3).

    Args:
        model: prepared; it is left in eval mode.
        run: passes one batch through `model`.
        batches: as many as the statistics shall cover.
    """
    norms = tracked(model)
    if not norms:
        return
    model.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for batch in batches:
            run(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
