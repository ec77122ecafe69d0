"""A sweep at a glance: its best, its suggested and its best uniform policy, and figures whose names say their units."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from search.records.front import figures, front_members, front_rows
from search.records.record import SweepRecord
from search.records.summary import best, best_uniform, front_lines, headline, readable, standard_error, suggested
from search.tasks.metrics.info import MetricInfo

MakeSweep = Callable[..., SweepRecord]


def test_the_best_and_the_suggested_policy(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=60)
    members = front_members(sweep)
    first, pick = best(members), suggested(sweep, members)
    assert first is not None
    assert pick is not None
    assert figures(first)["error"] == min(figures(trial)["error"] for trial in members)
    near = [trial for trial in members if figures(trial)["accuracy"] >= 0.98 - 0.005]
    assert near
    assert figures(pick)["weight_bytes"] == min(figures(trial)["weight_bytes"] for trial in near)
    strict = replace(sweep, baseline={**sweep.baseline, "accuracy_valid": 1.0})
    assert suggested(strict, members) == first, "none is within half a point: the most accurate"
    assert suggested(replace(sweep, baseline={}), members) == first
    assert best(()) is None
    assert suggested(sweep, ()) is None


def test_the_float_row_has_every_metric_that_is_recorded(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=20)
    infos = (MetricInfo("accuracy", True, "%", 1.0, 1.0), MetricInfo("kld", False, "nats", 1.0))
    sweep = replace(sweep, metrics=infos, baseline={**sweep.baseline, "kld_valid": 0.0, "accuracy_valid": 0.98, "accuracy_test": 0.97})
    members = front_members(sweep)
    line = front_lines(sweep, members, front_rows(sweep, members))[-1]
    assert (line["id"], line["accuracy_valid"], line["accuracy_test"], line["kld_valid"], line["kld_test"]) == (
        "float",
        0.98,
        0.97,
        0.0,
        None,
    )


def test_the_standard_error_counts_predictions_where_an_example_has_several(make_sweep: MakeSweep) -> None:
    sweep = replace(make_sweep(trials=4), baseline={"examples_valid": 25.0, "examples_test": 100.0, "predictions_valid": 2500.0})
    assert standard_error(sweep, "accuracy", "validation", 0.5) == pytest.approx(0.01)
    assert standard_error(sweep, "accuracy", "test", 0.5) == pytest.approx(0.05)


def test_the_best_uniform_policy_keeps_the_limits(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=20)
    uniform = best_uniform(sweep)
    assert uniform == min(sweep.trials[:2], key=lambda trial: figures(trial)["error"])
    assert best_uniform(replace(sweep, limits={"weight_bytes": figures(sweep.trials[0])["weight_bytes"]})) == sweep.trials[0]
    assert best_uniform(replace(sweep, limits={"weight_bytes": 1.0})) is None
    assert best_uniform(sweep, sweep.trials[2:]) is None


def test_the_figures_of_a_list_of_sweeps(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=30)
    members = front_members(sweep)
    values = headline(sweep, members, best_uniform(sweep), 30)
    first = best(members)
    assert first is not None
    assert values["float_valid_percent"] == 98.0
    assert values["float_test_percent"] == 97.0
    assert values["float_size_KiB"] == pytest.approx(64 * 32 * 6 / 1024)
    assert values["best_valid_percent"] == pytest.approx(100 * figures(first)["accuracy"], abs=1e-3)
    assert values["best_latency_ms"] == pytest.approx(1000 * figures(first)["latency_s"], abs=1e-4)
    assert "best_test_percent" not in values, "not measured yet"
    tested = replace(first, test={"accuracy": 0.5})
    assert headline(sweep, (tested,), None, 30)["best_test_percent"] == 50.0
    assert headline(replace(sweep, baseline={}), (), None, 0) == {"trials": 0.0}


def test_names_say_the_unit() -> None:
    assert readable({"accuracy_valid": 0.5, "weight_bytes": 2048.0, "energy_j": None}, "best") == {
        "best_valid_percent": 50.0,
        "best_size_KiB": 2.0,
    }
