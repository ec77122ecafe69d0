"""The expected loss of a policy: against its definition, and against the truth where the best of many was chosen."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from search.evaluation.paired import standard_error
from search.records.expected import FEWEST, NEAR, drop, expected_drop
from search.records.record import SweepRecord
from tests.search.conftest import MakeSweep

COUNT = 299


def _sweep(make_sweep: MakeSweep, changes: Sequence[tuple[int, int]]) -> SweepRecord:
    """Return a sweep of policies of so many lost and won answers of `COUNT`, of a float network of 90 %."""
    sweep, trials = make_sweep(trials=len(changes)), []
    for trial, (lost, won) in zip(sweep.trials, changes, strict=True):
        differences = torch.zeros(COUNT)
        differences[:lost], differences[lost : lost + won] = 1.0, -1.0
        accuracy = 0.9 - (lost - won) / COUNT
        metrics = {"accuracy": accuracy, "error": 1 - accuracy, "accuracy_drop_se": standard_error(differences)}
        trials.append(replace(trial, result=replace(trial.result, metrics=metrics, status="ok"), repeated=-1))
    return replace(sweep, trials=tuple(trials), baseline={"accuracy_valid": 0.9, "examples_valid": float(COUNT)})


def test_the_best_of_many_is_expected_to_lose_what_it_loses(make_sweep: MakeSweep) -> None:
    """Policies lose half of the answers in which they differ. The one that seems to lose least was lucky; its expected loss is not."""
    generator, measured, expected = np.random.default_rng(0), [], []
    for _ in range(60):
        shares = generator.uniform(0.01, 0.08, size=60)
        changed = generator.binomial(COUNT, shares)
        lost = generator.binomial(changed, 0.75)
        sweep = _sweep(make_sweep, [(int(a), int(b - a)) for a, b in zip(lost, changed, strict=True)])
        best = min(sweep.trials, key=lambda trial: drop(sweep, trial))
        truth = 0.5 * shares[best.number]
        measured.append(truth - drop(sweep, best))
        expected.append(truth - expected_drop(sweep, best))
    assert np.mean(measured) > 0.006
    assert abs(np.mean(expected)) < 0.25 * np.mean(measured)


def test_the_formula(make_sweep: MakeSweep) -> None:
    """Losses that spread more than their errors tell, and a policy that differs too much to tell anything of the others."""
    changes = [(3 + i, i % 3) for i in range(12)] + [(0, 8), (18, 0), (60, 40)]
    sweep = _sweep(make_sweep, changes)
    rows = [
        ((a - b) / COUNT, (a + b) / COUNT, trial.result.metrics["accuracy_drop_se"])
        for (a, b), trial in zip(changes, sweep.trials, strict=True)
    ]
    near = [row for row in rows if row[1] <= NEAR]
    assert len(near) == len(rows) - 1
    slope = sum(loss for loss, _, _ in near) / sum(share for _, share, _ in near)
    spread = sum((loss - slope * share) ** 2 - error**2 for loss, share, error in near) / sum(share**2 for _, share, _ in near)
    assert spread > 0
    for trial, (loss, share, error) in zip(sweep.trials, rows, strict=True):
        prior = spread * share**2
        wanted = (prior * loss + error**2 * slope * share) / (prior + error**2)
        assert expected_drop(sweep, trial) == pytest.approx(wanted, rel=1e-9)


def test_a_few_policies_or_no_differences_are_left_as_measured(make_sweep: MakeSweep) -> None:
    few = _sweep(make_sweep, [(3, 1)] * (FEWEST - 1))
    assert [expected_drop(few, trial) for trial in few.trials] == [drop(few, trial) for trial in few.trials]
    same = _sweep(make_sweep, [(0, 0)] * 20)
    assert [expected_drop(same, trial) for trial in same.trials] == pytest.approx([0.0] * 20)
    unknown = replace(few, baseline={"examples_valid": float(COUNT)})
    assert math.isnan(expected_drop(unknown, unknown.trials[0]))


def test_losses_of_a_network_that_gains_are_not_expected_to_be_gains(make_sweep: MakeSweep) -> None:
    """All policies better than float on few examples: luck of the split, which no policy keeps."""
    sweep = _sweep(make_sweep, [(0, 2 + i % 3) for i in range(20)])
    assert all(drop(sweep, trial) < expected_drop(sweep, trial) <= 0.0 for trial in sweep.trials)
