"""The metric that a policy should reach: between the trials beside it, never beyond them."""

from dataclasses import replace

import numpy as np

from search.sweeps.estimate import FEWEST, estimated_metric
from tests.search.conftest import MakeSweep


def test_the_estimate_lies_between_the_trials(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=30, layers=6)
    table = np.array([4.0**-bits for bits in range(9)])
    losses = (table,) * 6
    best = max(trial.result.metrics["accuracy"] for trial in sweep.trials if trial.result.ok)
    worst = min(trial.result.metrics["accuracy"] for trial in sweep.trials if trial.result.ok)
    estimates = [estimated_metric(sweep, losses, (bits,) * 6) for bits in (2, 3, 4, 5, 8)]
    assert estimates == sorted(estimates)  # type: ignore[type-var]
    assert worst <= estimates[0] < estimates[-1] <= best  # type: ignore[operator]
    assert abs(estimates[2] - (1 - 0.02 - 0.3 * 4.0**-4)) < 0.01, "0.01 is the noise of the made-up trials"  # type: ignore[operator]


def test_too_few_trials_give_none(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=FEWEST - 1)
    assert estimated_metric(sweep, (np.arange(9.0),) * 6, (4,) * 6) is None
    other_space = replace(make_sweep(trials=30))
    assert estimated_metric(other_space, (np.arange(9.0),) * 5, (4,) * 5) is None
