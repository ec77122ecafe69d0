"""Metrics of values: mean absolute error, peak signal-to-noise ratio, Pearson's and Spearman's correlation."""

import math

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from quant_core.util.errors import InputError
from search.tasks.metrics.info import MetricInfo
from search.tasks.metrics.metric import Metric
from search.tasks.metrics.shapes import expanded_weights, shapes_of
from search.tasks.metrics.state import Judged


def _values(batch: Judged, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs, targets and weights in float64, flat.

    Raises:
        InputError: the targets are no tensor of as many values.
    """
    targets = batch.targets
    if not isinstance(targets, Tensor):
        raise InputError(
            f"metric {name!r} needs a target for every output, and the targets of {batch.place} are a {type(targets).__name__}; "
            f"name the part that holds them: Task(..., batch='NAME'), or a function of a batch."
        )
    alike = batch.outputs.shape == targets.shape or batch.outputs.squeeze(-1).shape == targets.squeeze(-1).shape
    if not alike:
        raise InputError(
            f"metric {name!r} needs outputs and targets of one shape; {batch.place} has {shapes_of(batch)}. Reshape one of them."
        )
    weights = expanded_weights(batch, targets.shape)
    return batch.outputs.double().reshape(-1), targets.double().reshape(-1), weights.reshape(-1)


class _MeanError:
    """The weighted mean of |o - t|, or of (o - t)^2."""

    def __init__(self, name: str, power: int, span: float = 1.0) -> None:
        self._name, self._power, self._span = name, power, span
        self._sum = self._weight = 0.0

    def update(self, batch: Judged) -> None:
        outputs, targets, weights = _values(batch, self._name)
        self._sum += float(((outputs - targets).abs() ** self._power * weights).sum())
        self._weight += float(weights.sum())

    def values(self) -> tuple[float]:
        mean = self._sum / self._weight if self._weight else math.nan
        if self._power == 1 or math.isnan(mean):
            return (mean,)
        return (10.0 * math.log10(self._span**2 / max(mean, 1e-30)),)


class _Pearson:
    """Weighted means and co-moments, merged batch by batch (Chan, Golub and LeVeque 1983, equations 2.1 a and b)."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._mean = torch.zeros(2, dtype=torch.float64)
        self._moments = torch.zeros(2, 2, dtype=torch.float64)

    def update(self, batch: Judged) -> None:
        outputs, targets, weights = _values(batch, "pearson")
        weight = float(weights.sum())
        if not weight:
            return
        pairs = torch.stack([outputs, targets])
        mean = (pairs * weights).sum(dim=1) / weight
        centred = pairs - mean[:, None]
        moments = ((centred * weights) @ centred.T).cpu()
        step, total = mean.cpu() - self._mean, self._weight + weight
        self._moments = self._moments + moments + torch.outer(step, step) * (self._weight * weight / total)
        self._mean = self._mean + step * (weight / total)
        self._weight = total

    def values(self) -> tuple[float]:
        spread = math.sqrt(float(self._moments[0, 0]) * float(self._moments[1, 1]))
        return (float(self._moments[0, 1]) / spread if spread > 0 else math.nan,)


class _Spearman:
    """All outputs and targets: ranks are those within the whole set."""

    def __init__(self) -> None:
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, batch: Judged) -> None:
        if batch.weights is not None:
            raise InputError("metric 'spearman' takes no sample weights; leave them out of the batch, or use 'pearson'.")
        outputs, targets, _ = _values(batch, "spearman")
        self._outputs.append(outputs.cpu())
        self._targets.append(targets.cpu())

    def values(self) -> tuple[float]:
        ranks = [rankdata(torch.cat(parts).numpy()) for parts in (self._outputs, self._targets)]
        if any(np.ptp(column) == 0 for column in ranks):
            return (math.nan,)
        return (float(np.corrcoef(ranks[0], ranks[1])[0, 1]),)


def mae() -> Metric:
    """Return the mean absolute error, in the unit of the targets."""
    return Metric((MetricInfo("mae", False, "", 0.0),), lambda: _MeanError("mae", 1))


def psnr(span: str = "1") -> Metric:
    """Return the peak signal-to-noise ratio of the whole set, 10 log10(span^2 / MSE), in dB; "psnr:255" for values from 0 to 255.

    Raises:
        InputError: `span` is no positive number.
    """
    try:
        width = float(span)
    except ValueError:
        width = math.nan
    if not 0 < width < math.inf:
        raise InputError(f"metric 'psnr:{span}' given; write the range of the values, as in psnr:255.")
    return Metric((MetricInfo("psnr", True, "dB", None),), lambda: _MeanError("psnr", 2, width))


def pearson() -> Metric:
    """Return Pearson's correlation of outputs and targets over the whole set."""
    return Metric((MetricInfo("pearson", True, "", 1.0, 1.0),), _Pearson)


def spearman() -> Metric:
    """Return Spearman's rank correlation of outputs and targets over the whole set, ties by their mean rank."""
    return Metric((MetricInfo("spearman", True, "", 1.0, 1.0),), _Spearman)
