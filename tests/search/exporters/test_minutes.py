"""`plan`: what a compression does in its minutes. Equal numbers give equal plans, and none takes longer than the time."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.exporters.minutes import FEW, LEAST, LEAST_CALIB, MOST_TRIALS, OVERHEAD_S, PASSES, STEPS, SURE, WANTED, Chosen, Costs, plan

SMALL = Costs(1e-5, 2e-5, 0.01, 0.5, baselines=3, choices=20, formats=3, layers=9, few_bits=True, calib=500, valid=299, test=600)
LARGE = Costs(0.012, 0.03, 2.0, 3.0, baselines=2, choices=100, formats=2, layers=50, few_bits=True, calib=64, valid=1500, test=3000)


def test_without_a_limit_everything_is_used() -> None:
    chosen = plan(math.inf, LARGE)
    assert (chosen.trials, chosen.searcher, chosen.passes) == (MOST_TRIALS, "auto", PASSES[0])
    assert (chosen.calib, chosen.valid, chosen.test) == (0, 0, 0)
    assert (chosen.steps, chosen.reconstructed) == (STEPS[0], 4)
    assert plan(math.inf, replace(LARGE, few_bits=False)).reconstructed == 0, "8 bits gain nothing from reconstruction"
    assert plan(math.inf, replace(LARGE, size=7)).trials == 7


def test_a_tiny_network_has_all_examples_and_no_more_trials_than_pay() -> None:
    chosen = plan(600.0, SMALL)
    assert (chosen.trials, chosen.searcher) == (MOST_TRIALS, "auto")
    assert (chosen.calib, chosen.valid, chosen.test) == (0, 0, 0)
    assert chosen.steps == STEPS[0]
    assert "at most 200 trials by auto" in chosen.words


def test_a_tenth_of_a_minute_of_a_tiny_network_is_a_search() -> None:
    chosen = plan(6.0, SMALL)
    assert chosen.searcher == "auto"
    assert 20 < chosen.trials < 60
    assert chosen.valid == 0, "all 299"


def test_a_tenth_of_a_minute_of_a_large_network_is_uniform_policies() -> None:
    chosen = plan(6.0, LARGE)
    assert (chosen.searcher, chosen.passes, chosen.reconstructed) == ("uniform", 0.0, 0)
    assert chosen.valid >= LEAST
    assert "uniform policies alone" in chosen.words


@pytest.mark.parametrize("seconds", [0.0, -5.0, 1.0, 10.0])
def test_a_trial_longer_than_the_whole_time_is_one_trial_of_the_widest_formats(seconds: float) -> None:
    chosen = plan(seconds, replace(LARGE, trial_s=100.0, float_s=40.0))
    assert (chosen.trials, chosen.searcher, chosen.widest) == (1, "uniform", True)
    assert (chosen.calib, chosen.valid) == (LEAST_CALIB, LEAST)
    assert "1 trial, uniform policies alone in the widest formats" in chosen.words
    assert not plan(seconds, replace(LARGE, trial_s=100.0, baselines=1)).widest, "there is but one"


def test_more_time_gives_optima_of_sensitivities_then_a_search_then_more_examples_then_a_ladder() -> None:
    kinds = [plan(60.0 * minutes, LARGE) for minutes in (0.25, 2, 4, 10, 40, 600)]
    assert [chosen.searcher for chosen in kinds] == ["uniform", "ilp", "auto", "auto", "auto", "auto"]
    sizes = [chosen.valid or LARGE.valid for chosen in kinds]
    assert sizes == sorted(sizes)
    assert kinds[-1].valid == 0
    rungs = [chosen.steps * chosen.reconstructed for chosen in kinds]
    assert rungs == sorted(rungs)
    assert (kinds[0].reconstructed, kinds[-1].steps) == (0, STEPS[0])


def test_fewer_sensitivities_come_before_none() -> None:
    chosen = [plan(seconds, LARGE) for seconds in range(10, 300)]
    assert {one.passes for one in chosen} == {0.0, *PASSES}
    assert sorted(one.passes for one in chosen) == [one.passes for one in chosen]


@given(
    seconds=st.floats(0.0, 1e5),
    float_s=st.floats(1e-6, 10.0),
    slower=st.floats(1.0, 10.0),
    baselines=st.integers(1, 14),
    choices=st.integers(0, 2000),
    few_bits=st.booleans(),
    examples=st.integers(1, 100_000),
)
def test_no_plan_takes_longer_than_its_time(
    seconds: float, float_s: float, slower: float, baselines: int, choices: int, few_bits: bool, examples: int
) -> None:
    costs = Costs(
        float_s, float_s * slower, 0.1, 0.2, baselines, choices=choices, few_bits=few_bits, calib=examples, valid=examples, test=examples
    )
    chosen = plan(seconds, costs)
    assert chosen == plan(seconds, costs)
    assert 1 <= chosen.trials <= MOST_TRIALS
    assert taken(chosen, costs) <= max(seconds, one_trial(chosen, costs)) + 1e-6


def one_trial(chosen: Chosen, costs: Costs) -> float:
    """Return the seconds of the one trial that there is in any case."""
    valid = chosen.valid or costs.valid
    return math.inf if chosen.trials == 1 and valid <= LEAST else OVERHEAD_S + valid * costs.trial_s


def taken(chosen: Chosen, costs: Costs) -> float:
    """Return the seconds that a plan takes but for the test split, added up anew."""
    calib, valid = chosen.calib or costs.calib, chosen.valid or costs.valid
    seconds = costs.open_s + costs.first_s * costs.formats + chosen.trials * (OVERHEAD_S + valid * costs.trial_s)
    if chosen.passes:
        passes = costs.choices if costs.choices <= 64 and chosen.passes == PASSES[0] else chosen.passes
        seconds += (2.0 + passes) * calib * costs.trial_s
    one = chosen.steps * (16 * 3.0 * costs.float_s + 0.006 * costs.layers) + 8.0 * calib * costs.float_s
    return seconds + chosen.reconstructed * one


def test_enough_examples_to_show_half_a_point_come_before_more_trials() -> None:
    by_time = [plan(float(seconds), LARGE) for seconds in range(60, 1200, 10)]
    assert any(chosen.valid == SURE and FEW < chosen.trials < WANTED for chosen in by_time)
    assert all(chosen.valid == 0 or chosen.valid <= SURE or chosen.trials >= WANTED - 2 for chosen in by_time)
