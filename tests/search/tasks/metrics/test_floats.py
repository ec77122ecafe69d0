"""Divergence from the float network, and changed answers."""

import math

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from scipy.special import softmax as scipy_softmax

from quant_core.util.errors import InputError
from search.tasks.metrics.floats import flips, kld
from search.tasks.metrics.metric import Metric
from search.tasks.metrics.state import Judged

GENERATOR = torch.Generator().manual_seed(0)
FLOATS = torch.randn(80, 5, generator=GENERATOR)
OUTPUTS = FLOATS + 0.5 * torch.randn(80, 5, generator=GENERATOR)
DIVERGENCE = rel_entr(scipy_softmax(FLOATS.double().numpy(), axis=1), scipy_softmax(OUTPUTS.double().numpy(), axis=1)).sum(axis=1)
FLIPPED = (FLOATS.argmax(dim=1) != OUTPUTS.argmax(dim=1)).numpy()


def values(metric: Metric, *batches: Judged) -> tuple[float, ...]:
    state = metric.start()
    for batch in batches:
        state.update(batch)
    return tuple(state.values())


def test_mean_and_quantile_are_those_of_scipy() -> None:
    parts = [Judged(OUTPUTS[a:b], None, None, FLOATS[a:b]) for a, b in ((0, 3), (3, 80))]
    assert values(kld(), *parts) == pytest.approx((DIVERGENCE.mean(), np.quantile(DIVERGENCE, 0.999)), rel=1e-4)
    assert values(flips(), *parts) == (pytest.approx(FLIPPED.mean()),)
    assert 0 < FLIPPED.mean() < 1


def test_the_float_network_diverges_from_itself_by_nothing() -> None:
    assert values(kld(), Judged(FLOATS, None, None, FLOATS)) == (0.0, 0.0)
    assert values(flips(), Judged(FLOATS, None, None, FLOATS)) == (0.0,)


def test_positions_of_sequences_count_where_their_label_is_judged() -> None:
    labels = torch.zeros(8, 10, dtype=torch.long)
    labels[:, 6:] = -100
    batch = Judged(OUTPUTS.view(8, 10, 5), labels, None, FLOATS.view(8, 10, 5))
    kept = (labels == 0).flatten().numpy()
    assert values(kld(), batch)[0] == pytest.approx(DIVERGENCE[kept].mean(), rel=1e-4)
    assert values(flips(), batch)[0] == pytest.approx(FLIPPED[kept].mean())


def test_sample_weights_weigh_examples() -> None:
    weights = torch.rand(80, generator=GENERATOR)
    batch = Judged(OUTPUTS, None, weights, FLOATS)
    assert values(kld(), batch)[0] == pytest.approx(np.average(DIVERGENCE, weights=weights), rel=1e-4)
    assert values(flips(), batch)[0] == pytest.approx(np.average(FLIPPED, weights=weights), rel=1e-6)


def test_a_class_that_is_impossible_adds_nothing() -> None:
    masked = FLOATS.masked_fill(torch.arange(5) == 2, -math.inf)
    assert values(kld(), Judged(masked, None, None, masked))[0] == 0.0


def test_values_are_refused() -> None:
    with pytest.raises(InputError, match=r"'flips' needs two classes or more on axis 1 of the outputs \(80, 1\)"):
        values(flips(), Judged(OUTPUTS[:, :1], None, None, FLOATS[:, :1]))
    with pytest.raises(InputError, match=r"'kld' needs logits of classes, as \(N, C\); the outputs have the shape \(80,\)"):
        values(kld(), Judged(OUTPUTS[:, 0], None, None, FLOATS[:, 0]))
