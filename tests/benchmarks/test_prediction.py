"""Predicted against measured latency: the figures of agreement, and the policies that are drawn."""

import numpy as np
import pytest
from torch import nn, randn

from benchmarks.prediction import agreement, mixed, seconds
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from search.exporters.profiling import MODES, Profiled


def test_agreement_takes_errors_relative_to_the_measured_times() -> None:
    result = agreement([1.1, 2.0, 2.0], [1.0, 2.0, 4.0])
    assert result.median_error == pytest.approx(0.1)
    assert result.largest_error == pytest.approx(0.5)


def test_agreement_ranks_as_measured_where_only_the_scale_differs() -> None:
    assert agreement([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]).rank == pytest.approx(1.0)
    assert agreement([3.0, 2.0, 1.0], [1.0, 2.0, 3.0]).rank == pytest.approx(-1.0)


def test_times_are_ratios_of_the_quickest_calls_to_those_of_the_float_network() -> None:
    calls = [np.array([[1.0, 2.0], [5.0, 3.0], [1.0, 2.0]]), np.array([[4.0, 8.0], [4.0, 8.0], [3.0, 12.0]])]
    assert seconds(calls) == [1.0, 0.75]
    assert seconds(calls, slice(2, None)) == [1.0, 0.5]


def test_mixed_policies_are_the_same_for_a_seed_and_hold_the_modes_alone() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    batch = randn(4, 8)
    layers = tuple(trace(model, batch, [batch]))
    network = Profiled(model, layers, batch, PostTraining(model, layers, [batch], batch))
    policies = mixed(network, MODES, 12)
    assert policies == mixed(network, MODES, 12)
    assert len(set(policies)) > 6
    allowed = [network.uniform(mode) for mode in MODES]
    assert all(policy[name] in [choice[name] for choice in allowed] for policy in policies for name in policy)
