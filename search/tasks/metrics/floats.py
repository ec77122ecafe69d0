"""Metrics against the float network, which need no targets: divergence of the predicted distributions, and changed answers."""

import math

import numpy as np
import torch
from torch import Tensor

from quant_core.util.errors import InputError
from search.tasks.batches import IGNORED
from search.tasks.metrics.info import MetricInfo
from search.tasks.metrics.metric import Metric
from search.tasks.metrics.shapes import expanded_weights
from search.tasks.metrics.state import Judged

QUANTILE = 0.999


def _pair(batch: Judged, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits [P, C] of the network and of the float one, and the weights [P], where a label is judged."""
    outputs, wanted = batch.outputs, batch.float_outputs
    assert wanted is not None
    if outputs.shape != wanted.shape or outputs.dim() < 2:
        raise InputError(f"metric {name!r} needs logits of classes, as (N, C); the outputs have the shape {tuple(outputs.shape)}.")
    axis = batch.axis if batch.axis is not None else -1 if outputs.dim() == 3 else 1
    labels = batch.targets
    outputs, wanted = outputs.movedim(axis, -1), wanted.movedim(axis, -1)
    if outputs.shape[-1] < 2:
        raise InputError(f"metric {name!r} needs two classes or more on axis {axis} of the outputs {tuple(batch.outputs.shape)}.")
    weights = expanded_weights(batch, outputs.shape[:-1])
    if isinstance(labels, Tensor) and labels.shape == outputs.shape[:-1] and not labels.is_floating_point():
        kept = labels != IGNORED
        return outputs[kept], wanted[kept], weights[kept]
    return outputs.reshape(-1, outputs.shape[-1]), wanted.reshape(-1, outputs.shape[-1]), weights.reshape(-1)


class _Divergence:
    """KL(float || quantized) of every prediction, in nats: four bytes are kept of each."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []
        self._sum = self._weight = 0.0

    def update(self, batch: Judged) -> None:
        outputs, wanted, weights = _pair(batch, "kld")
        log_p, log_q = wanted.float().log_softmax(dim=-1), outputs.float().log_softmax(dim=-1)
        divergence = torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q)).sum(dim=-1).clamp_min(0.0)
        self._sum += float((divergence.double() * weights).sum())
        self._weight += float(weights.sum())
        self._parts.append(divergence[weights > 0].cpu())

    def values(self) -> tuple[float, float]:
        if not self._weight:
            return math.nan, math.nan
        return self._sum / self._weight, float(np.quantile(torch.cat(self._parts).numpy(), QUANTILE))


class _Flips:
    """The weighted share of predictions whose largest logit is another one."""

    def __init__(self) -> None:
        self._flipped = self._weight = 0.0

    def update(self, batch: Judged) -> None:
        outputs, wanted, weights = _pair(batch, "flips")
        self._flipped += float((weights * (outputs.argmax(dim=-1) != wanted.argmax(dim=-1))).sum())
        self._weight += float(weights.sum())

    def values(self) -> tuple[float]:
        return (self._flipped / self._weight if self._weight else math.nan,)


def kld() -> Metric:
    """Return the Kullback-Leibler divergence from the float network, in nats: the mean over predictions, and its 99.9 % quantile."""
    infos = (MetricInfo("kld", False, "nats", 0.0, 1.0), MetricInfo("kld_q999", False, "nats", 0.0, 1.0))
    return Metric(infos, _Divergence, against_float=True, classes=True)


def flips() -> Metric:
    """Return the share of predictions whose top-1 answer is not the float network's."""
    return Metric((MetricInfo("flips", False, "%", 0.0, 1.0),), _Flips, against_float=True, classes=True)
