"""Choosing a policy by the accuracy that it may lose: sure ones first, then near ones, then the best; and what it says."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from quant_core.util.errors import InputError
from search.records.expected import drop
from search.records.front import pick
from search.records.record import SweepRecord
from search.records.selection import QUANTILE, bound, max_drop_of, suggestion, within_drop
from search.tasks.metrics.info import MetricInfo
from tests.search.conftest import MakeSweep


def _sweep(make_sweep: MakeSweep, points: Sequence[tuple[float, float, float | None]]) -> SweepRecord:
    """Return a sweep of trials of (accuracy, bytes, standard error of the drop), of a float network of 90 %."""
    sweep = make_sweep(trials=len(points))
    trials = []
    for trial, (accuracy, size, error) in zip(sweep.trials, points, strict=True):
        metrics = {"accuracy": accuracy, "error": 1 - accuracy, "loss": 1.0} | ({} if error is None else {"accuracy_drop_se": error})
        trials.append(replace(trial, result=replace(trial.result, metrics=metrics, cost={"weight_bytes": size}, status="ok"), repeated=-1))
    return replace(sweep, trials=tuple(trials), baseline={"accuracy_valid": 0.9, "examples_valid": 500.0})


def test_the_smallest_sure_policy_is_chosen(make_sweep: MakeSweep) -> None:
    sweep = _sweep(make_sweep, [(0.85, 100, 0.001), (0.896, 200, 0.002), (0.899, 300, 0.002), (0.9, 400, 0.001)])
    chosen = within_drop(sweep, sweep.trials, 0.5)
    assert bound(sweep, sweep.trials[1]) == pytest.approx(0.004 + QUANTILE * 0.002)
    assert drop(sweep, sweep.trials[1]) <= 0.005
    assert chosen.sure
    assert chosen.trial.number == 2, "200 bytes lose 0.4 points, but not at 90 % confidence"
    assert chosen.note == "smallest weight within 0.5 points of float on validation, at 90% confidence"
    assert within_drop(sweep, sweep.trials, 1.0).trial.number == 1


@pytest.mark.parametrize(("error", "why"), [(0.01, "no policy is so at 90% confidence on 500 examples"), (None, "was not measured")])
def test_a_near_policy_is_chosen_where_none_is_sure(make_sweep: MakeSweep, error: float | None, why: str) -> None:
    sweep = _sweep(make_sweep, [(0.85, 100, error), (0.896, 200, error), (0.9, 400, error)])
    chosen = within_drop(sweep, sweep.trials, 0.5)
    assert chosen.trial.number == 1
    assert chosen.near
    assert not chosen.sure
    assert why in chosen.note
    counted = replace(sweep, baseline={**sweep.baseline, "predictions_valid": 64000.0})
    assert why.replace("500 examples", "64000 predictions") in within_drop(counted, sweep.trials, 0.5).note


def test_the_best_policy_is_chosen_where_none_is_near(make_sweep: MakeSweep) -> None:
    sweep = _sweep(make_sweep, [(0.8, 100, 0.001), (0.85, 200, 0.001)])
    chosen = within_drop(sweep, sweep.trials, 0.5)
    assert chosen.trial.number == 1
    assert not chosen.near
    assert chosen.note == "no policy is within 0.5 points of float on validation; this one loses least, 5.00 points"


def test_a_metric_without_percent_is_suggested_by_its_error(make_sweep: MakeSweep) -> None:
    sweep = make_sweep()
    plain = replace(sweep, metrics=(MetricInfo("perplexity", False, "", 0.0),), baseline={"perplexity_valid": 9.0})
    chosen = suggestion(plain, sweep.trials[:8])
    assert chosen is not None
    assert chosen.note == "least error on validation"
    assert chosen.trial.result.metrics["error"] == min(trial.result.metrics["error"] for trial in sweep.trials[:8])


@pytest.mark.parametrize(
    ("info", "note"),
    [
        (MetricInfo("spearman", True, "", 1.0, 1.0), "smallest weight within 0.5 points of float on validation, by the estimate"),
        (MetricInfo("perplexity", False, "", 0.0), "smallest weight within 0.5 of float on validation, by the estimate"),
        (MetricInfo("psnr", True, "dB", None), "smallest weight within 0.5 dB of float on validation, by the estimate"),
    ],
)
def test_half_a_point_of_a_correlation_is_a_two_hundredth(make_sweep: MakeSweep, info: MetricInfo, note: str) -> None:
    """Losses of a point's 0.4 and 0.6 are told apart, of whatever a point is."""
    step = (0.01 if info.name == "spearman" else 1.0) * (1 if info.higher else -1)
    trials = []
    for trial, lost, size in zip(make_sweep(trials=3).trials, (0.6, 0.4, 0.0), (100.0, 200.0, 300.0), strict=True):
        metrics = {info.name: 0.9 - lost * step, "error": lost}
        trials.append(replace(trial, result=replace(trial.result, metrics=metrics, cost={"weight_bytes": size}, status="ok")))
    sweep = replace(make_sweep(), trials=tuple(trials), metrics=(info,), baseline={f"{info.name}_valid": 0.9})
    chosen = within_drop(sweep, trials, 0.5)
    assert chosen.trial.number == 1
    assert chosen.note.startswith(note)


def test_picks_name_it(make_sweep: MakeSweep) -> None:
    sweep = _sweep(make_sweep, [(0.85, 100, 0.001), (0.896, 200, 0.002), (0.899, 300, 0.002), (0.9, 400, 0.001)])
    assert pick(sweep, "suggested").number == pick(sweep, "max-drop=0.5").number == 2
    assert pick(sweep, "max-drop=6").number == 0
    assert max_drop_of("knee") is None


@pytest.mark.parametrize("text", ["max-drop=half", "max-drop=", "max-drop=-1", "max-drop=nan", "max-drop=inf"])
def test_a_drop_that_is_none(make_sweep: MakeSweep, text: str) -> None:
    with pytest.raises(InputError, match=r"how many points of accuracy may be lost, as in max-drop=0\.5"):
        pick(make_sweep(), text)


def test_a_cost_that_no_policy_has(make_sweep: MakeSweep) -> None:
    with pytest.raises(InputError, match="'energy_j'"):
        within_drop(make_sweep(), make_sweep().trials[:3], 0.5, "energy_j")


def test_a_policy_that_was_lucky_is_passed_over(make_sweep: MakeSweep) -> None:
    """Policies that differ in 4 % of the answers lose 1.5 points; one seems to lose nothing."""
    error = (0.04 / 500) ** 0.5
    sweep = _sweep(make_sweep, [(0.885, 200, error)] * 15 + [(0.9, 100, error), (0.9, 300, 0.0005)])
    chosen = within_drop(sweep, sweep.trials, 0.5)
    assert chosen.trial.number == 16
    chosen = within_drop(sweep, sweep.trials, 1.45)
    assert chosen.trial.number == 15
    assert "; expected loss 1.4" in chosen.note
    assert chosen.note.endswith("points, measured 0.00")
