"""Estimates on the scale of measurements, and what is worth a measurement."""

import numpy as np
import pytest

from search.evaluation.calibration import SPREAD, Estimates, calibrated, dominated, worth_measuring

RNG = np.random.default_rng(0)
SLOTS = ["weight"] * 8 + ["activation"] * 8
RISES = [np.array([1.0, 0.1, 0.01, 0.0]) * np.exp(RNG.normal()) for _ in SLOTS]
ERRORS = [np.zeros(4) for _ in SLOTS]
COSTS = [np.array([2.0, 4.0, 6.0, 8.0]) for _ in SLOTS]
WIDEST = {(d, 3): 0.0 for d in range(len(SLOTS))}


def truth(slot: str, rise: float) -> float:
    return 3.0 * rise**0.8 if slot == "weight" else 0.5 * rise


def test_a_power_law_per_slot_is_recovered_from_some_measurements() -> None:
    measured = {(d, k): truth(SLOTS[d], RISES[d][k]) for d in (0, 2, 4, 9, 11, 13) for k in range(3)}
    estimates = calibrated(RISES, ERRORS, SLOTS, WIDEST | measured)
    for d, row in enumerate(estimates.rises):
        np.testing.assert_allclose(row[:3], [truth(SLOTS[d], rise) for rise in RISES[d][:3]], rtol=0.1)
        assert row[3] == 0.0
        assert estimates.spreads[d][3] == 0.0
    assert all(estimates.spreads[d][k] == 0.0 and estimates.rises[d][k] == measured[d, k] for d, k in measured)
    assert max(estimates.spreads[1][:3]) < SPREAD


def test_a_dimension_off_the_law_is_shifted_and_doubted_more() -> None:
    measured = {(d, k): RISES[d][k] for d in range(4) for k in range(3)} | {(4, 0): 20 * RISES[4][0]}
    estimates = calibrated(RISES, ERRORS, SLOTS, WIDEST | measured)
    assert estimates.rises[4][1] > 2 * RISES[4][1]
    assert estimates.spreads[4][1] > estimates.spreads[5][1] > 0
    noisy = calibrated(RISES, [error + 2.0 for error in ERRORS], SLOTS, WIDEST | measured)
    assert noisy.spreads[4][1] > estimates.spreads[4][1]


def test_without_a_measurement_the_estimates_stay_and_negative_ones_keep_their_sign() -> None:
    estimates = calibrated([np.array([1.0, -0.1, 0.0])], [np.zeros(3)], ["weight"], {(0, 2): 0.0})
    np.testing.assert_allclose(estimates.rises[0], [1.0, -0.1, 0.0])
    np.testing.assert_allclose(estimates.spreads[0], [SPREAD, SPREAD, 0.0])


def test_the_budget_of_passes_is_kept_and_the_cheap_and_doubtful_come_first() -> None:
    estimates = calibrated(RISES, ERRORS, SLOTS, WIDEST)
    shares = [1.0 - 0.1 * (d % 8) for d in range(len(SLOTS))]
    for budget in (0.0, 0.5, 3.0, 9.0, 1000.0):
        picked = worth_measuring(estimates, COSTS, SLOTS, shares, budget)
        assert sum(shares[d] for d, _ in picked) <= budget
        assert len(set(picked)) == len(picked)
        assert not set(picked) & set(WIDEST)
    assert len(worth_measuring(estimates, COSTS, SLOTS, shares, 1000.0)) == 3 * len(SLOTS)
    (first, *_) = worth_measuring(estimates, COSTS, SLOTS, [1.0] * 7 + [0.1] + [1.0] * 8, 3.0)
    assert first[0] == 7


def test_a_choice_that_another_beats_in_rise_and_cost_is_not_measured() -> None:
    rises, spreads, costs = np.array([1.0, 9.0, 0.1, 0.0]), np.array([0.5, 0.5, 0.5, 0.0]), np.array([2.0, 3.0, 4.0, 8.0])
    assert dominated(rises, spreads, costs).tolist() == [False, True, False, False]
    assert dominated(rises, 3 * spreads, costs).tolist() == [False, False, False, False]  # it may not be beaten
    picked = worth_measuring(Estimates((rises,), (spreads,)), [costs], ["weight"], [0.1], 10.0)
    assert sorted(picked) == [(0, 0), (0, 2)]


@pytest.mark.parametrize("rises", [np.zeros(3), np.array([-1.0, -0.5, 0.0])])
def test_choices_that_do_no_harm_are_not_measured(rises: np.ndarray) -> None:
    assert worth_measuring(Estimates((rises,), (np.ones(3),)), [np.arange(3.0)], ["weight"], [0.1], 10.0) == []


def test_a_noisy_measurement_counts_by_its_precision() -> None:
    measured = {(d, k): truth(SLOTS[d], RISES[d][k]) for d in (1, 2, 3) for k in range(3)}
    off = (0, 1)
    alone = calibrated(RISES, ERRORS, SLOTS, WIDEST | measured).rises[0][1]
    results = [calibrated(RISES, ERRORS, SLOTS, WIDEST | measured | {off: 3 * alone}, {off: noise}) for noise in (0.0, 0.1, 0.5, 50.0)]
    values = [estimates.rises[0][1] / alone for estimates in results]
    assert values[0] == pytest.approx(3.0)
    assert 3.0 > values[1] > values[2] > values[3] > 1.0
    assert all(estimates.spreads[0][1] == 0.0 for estimates in results)


def test_a_measured_fall_counts_by_its_precision_and_stands_where_there_is_no_estimate() -> None:
    rises, errors = [np.array([1.0, 0.2, 0.0])], [np.zeros(3)]
    fall = {(0, 2): 0.0, (0, 1): -0.1}
    exact, noisy = (calibrated(rises, errors, ["weight"], fall, {(0, 1): noise}).rises[0][1] for noise in (0.0, 1.0))
    assert exact == pytest.approx(-0.1)
    assert -0.1 < noisy < 0.2
    assert calibrated([np.zeros(3)], errors, ["weight"], {(0, 2): 0.0, (0, 1): 0.4}, {(0, 1): 1.0}).rises[0][1] == pytest.approx(0.4)
