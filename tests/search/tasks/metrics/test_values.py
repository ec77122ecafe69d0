"""Metrics of values against scipy and numpy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from quant_core.util.errors import InputError
from search.tasks.metrics.metric import Metric
from search.tasks.metrics.state import Judged
from search.tasks.metrics.values import mae, pearson, psnr, spearman

GENERATOR = torch.Generator().manual_seed(0)
TARGETS = torch.randn(50, generator=GENERATOR) * 3 + 1000
OUTPUTS = TARGETS + torch.randn(50, generator=GENERATOR)
WEIGHTS = torch.rand(50, generator=GENERATOR)


def value(metric: Metric, *batches: tuple[Any, ...]) -> float:
    state = metric.start()
    for batch in batches:
        state.update(Judged(*batch))
    return state.values()[0]


def batches(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    return list(zip(*(torch.split(tensor, [7, 1, 42]) for tensor in tensors), strict=True))


def test_correlations_are_those_of_scipy_over_the_whole_set() -> None:
    outputs, targets = OUTPUTS.double().numpy(), TARGETS.double().numpy()
    assert value(pearson(), *batches(OUTPUTS, TARGETS)) == pytest.approx(stats.pearsonr(outputs, targets).statistic, rel=1e-12)
    assert value(spearman(), *batches(OUTPUTS, TARGETS)) == pytest.approx(stats.spearmanr(outputs, targets).statistic, rel=1e-12)
    parts = [stats.spearmanr(outputs[a:b], targets[a:b]).statistic for a, b in ((0, 7), (8, 50))]
    assert value(spearman(), *batches(OUTPUTS, TARGETS)) != pytest.approx(np.mean(parts), rel=1e-3)  # no mean over batches


def test_ties_have_their_mean_rank() -> None:
    outputs, targets = OUTPUTS.round(), TARGETS.round()
    wanted = stats.spearmanr(outputs.numpy(), targets.numpy()).statistic
    assert value(spearman(), (outputs, targets)) == pytest.approx(wanted, rel=1e-12)


def test_a_weighted_correlation_is_that_of_numpy() -> None:
    covariance = np.cov(torch.stack([OUTPUTS, TARGETS]).double().numpy(), aweights=WEIGHTS.double().numpy())
    wanted = covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1])
    assert value(pearson(), *batches(OUTPUTS, TARGETS, WEIGHTS)) == pytest.approx(wanted, rel=1e-9)


def test_mean_error_and_signal_to_noise_are_those_of_the_whole_set() -> None:
    apart = (OUTPUTS.double() - TARGETS.double()).numpy()
    assert value(mae(), *batches(OUTPUTS, TARGETS)) == pytest.approx(np.abs(apart).mean(), rel=1e-12)
    assert value(mae(), *batches(OUTPUTS, TARGETS, WEIGHTS)) == pytest.approx(np.average(np.abs(apart), weights=WEIGHTS), rel=1e-6)
    decibels = 10 * math.log10(255**2 / np.square(apart).mean())
    assert value(psnr("255"), *batches(OUTPUTS, TARGETS)) == pytest.approx(decibels, rel=1e-12)
    assert value(psnr(), (OUTPUTS[:, None], TARGETS)) == pytest.approx(decibels - 20 * math.log10(255), rel=1e-12)


def test_the_error_of_a_ratio_in_decibels_falls_with_it_and_is_its_noise() -> None:
    (info,) = psnr().infos
    assert info.error(30.0) == pytest.approx(1e-3)
    assert info.error(31.0) < info.error(30.0)
    assert info.value(info.error(27.5)) == pytest.approx(27.5)


def test_constant_outputs_have_no_correlation() -> None:
    for metric in (pearson(), spearman()):
        assert math.isnan(value(metric, (OUTPUTS * 0, TARGETS)))


def test_ranks_take_no_weights() -> None:
    with pytest.raises(InputError, match="'spearman' takes no sample weights; leave them out of the batch, or use 'pearson'"):
        value(spearman(), (OUTPUTS, TARGETS, WEIGHTS))


@pytest.mark.parametrize(("name", "own"), [("SpearmanCorrCoef", spearman()), ("PearsonCorrCoef", pearson()), ("MeanAbsoluteError", mae())])
@pytest.mark.filterwarnings("ignore:Metric `SpearmanCorrcoef` will save:UserWarning")
def test_figures_are_those_of_torchmetrics(name: str, own: Metric) -> None:
    regression = pytest.importorskip("torchmetrics.regression", reason="torchmetrics is not installed")
    theirs = getattr(regression, name)()
    outputs, targets = OUTPUTS - 1000, TARGETS - 1000
    assert value(own, *batches(outputs, targets)) == pytest.approx(float(theirs(outputs, targets)), rel=1e-4)
