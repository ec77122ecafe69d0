"""A sweep's results: tables, figures, the best policy, its network and its files."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import bitfront
from bitfront import frames
from quant_core.spec.policy import LayerPolicy
from search.evaluation.measure import measure
from search.records.units import label, scaled


def relabelled(sweep: bitfront.Sweep, accuracies: dict[int, float], float_accuracy: float) -> bitfront.Sweep:
    """Return the sweep with other validation accuracies."""
    trials = []
    for trial in sweep.record.trials:
        accuracy = accuracies.get(trial.number, 0.2)
        metrics = {**trial.result.metrics, "accuracy": accuracy, "error": 1 - accuracy}
        trials.append(replace(trial, result=replace(trial.result, metrics=metrics)))
    baseline = {**sweep.record.baseline, "accuracy_valid": float_accuracy}
    return bitfront.Sweep(replace(sweep.record, trials=tuple(trials), baseline=baseline))


def test_the_front_is_a_table_with_units(sweep: bitfront.Sweep) -> None:
    table = sweep.front()
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == [
        "kind",
        "trial",
        "accuracy valid [%]",
        "accuracy test [%]",
        "weight [KiB]",
        "latency [ms]",
        "bits per weight",
        "fidelity",
        "knee",
        "best uniform",
    ]  # this device has no energy
    assert table.index.name == "policy"
    assert list(table["kind"])[-1] == "float"
    assert list(table.index)[-1] == "float"
    assert table["best uniform"].sum() == 1
    assert table["knee"].sum() == 1
    members = {trial.policy.id: trial for trial in frames.front_members(sweep.record)}
    front = table[table["kind"] == "front"]
    assert set(front.index) == set(members)
    assert list(front["weight [KiB]"]) == sorted(front["weight [KiB]"])
    for name, row in front.iterrows():
        trial = members[str(name)]
        assert row["accuracy valid [%]"] == pytest.approx(100 * trial.result.metrics["accuracy"])
        assert row["accuracy test [%]"] == pytest.approx(100 * trial.test["accuracy"])
        assert row["weight [KiB]"] == pytest.approx(trial.result.cost["weight_bytes"] / 1024)
        assert row["latency [ms]"] == pytest.approx(1e3 * trial.result.cost["latency_s"])
    floats = table.loc["float"]
    assert floats["weight [KiB]"] == pytest.approx(4 * (12 * 24 + 24 * 24 + 24 * 3) / 1024)
    assert floats["accuracy test [%]"] == pytest.approx(100 * sweep.record.baseline["accuracy_test"])
    assert floats["trial"] is pd.NA


def test_the_best_uniform_has_a_row_of_its_own_off_the_front_only(sweep: bitfront.Sweep) -> None:
    uniform = [trial.number for trial in sweep.record.trials if trial.origin == "baseline"]
    on_front = relabelled(sweep, {uniform[-1]: 0.9}, 0.9).front()
    assert "uniform" not in set(on_front["kind"])
    assert list(on_front.loc[on_front["best uniform"], "trial"]) == [uniform[-1]]
    small = min(sweep.record.trials, key=lambda trial: (trial.result.cost["weight_bytes"], trial.number))
    off_front = relabelled(sweep, {small.number: 0.9, uniform[-1]: 0.5}, 0.9).front()
    assert list(off_front["kind"]) == (["front", "uniform", "float"] if small.origin != "baseline" else ["front", "float"])


def test_every_trial_is_in_the_table_of_trials(sweep: bitfront.Sweep) -> None:
    table = sweep.trials()
    assert list(table.index) == list(range(12))
    assert set(table["status"]) == {"ok"}
    assert set(table[table["on front"]]["policy"]) == set(sweep.front().index[sweep.front()["kind"] == "front"])


def test_best_is_the_smallest_within_the_drop(sweep: bitfront.Sweep) -> None:
    members = sorted(frames.front_members(sweep.record), key=lambda trial: trial.result.cost["weight_bytes"])
    reached = sweep.record.baseline["accuracy_valid"]
    drops = {trial.number: reached - trial.result.metrics["accuracy"] for trial in members}
    bounds = {trial.number: drops[trial.number] + 1.2815516 * trial.result.metrics["accuracy_drop_se"] for trial in members}
    expected = next(trial for trial in members if bounds[trial.number] <= 0.02)
    best = sweep.best(max_drop=2.0)
    assert best.trial == expected.number
    assert best.note == "smallest weight within 2 points of float on validation, at 90% confidence"
    assert best["accuracy_float_valid"] == sweep.record.baseline["accuracy_valid"]
    assert best["weight_bytes"] == expected.result.cost["weight_bytes"]


def test_best_takes_a_drop_exactly_at_the_limit(sweep: bitfront.Sweep) -> None:
    first, second = sorted(sweep.record.trials, key=lambda trial: -trial.result.cost["weight_bytes"])[:2]
    changed = relabelled(sweep, {first.number: 0.9, second.number: 0.895}, 0.9)
    assert changed.best(max_drop=0.5).trial == second.number
    assert changed.best(max_drop=0.4).trial == first.number


def test_best_says_so_where_no_policy_is_close(sweep: bitfront.Sweep) -> None:
    changed = relabelled(sweep, {3: 0.5}, 0.9)
    with pytest.warns(UserWarning, match=r"no policy is within 0\.5 points of float on validation; this one loses least, 40\.00 points"):
        best = changed.best()
    assert best.trial == 3
    assert "loses least, 40.00 points" in repr(best)


def test_best_by_another_metric(sweep: bitfront.Sweep) -> None:
    latencies = {trial.number: trial.result.cost["latency_s"] for trial in frames.front_members(sweep.record)}
    assert sweep.best(max_drop=100, by="latency_s")["latency_s"] == min(latencies.values())
    with pytest.raises(bitfront.InputError, match=r"unknown metric 'latency'; known: .*latency_s"):
        sweep.best(by="latency")


def test_an_empty_front_is_an_error(sweep: bitfront.Sweep) -> None:
    empty = bitfront.Sweep(replace(sweep.record, limits={"weight_bytes": 1.0}))
    with pytest.raises(bitfront.BitfrontError, match="has an empty front"):
        empty.best()
    assert list(empty.front()["kind"]) == ["float"]


def test_pick_takes_whatever_names_a_policy(sweep: bitfront.Sweep) -> None:
    knee = sweep.pick("knee")
    assert sweep.pick().id == sweep.pick("suggested").id == sweep.best(max_drop=0.5).id
    for choice in ("knee", knee.trial, str(knee.trial), knee.id, knee.id[:6], knee.policy, knee):
        assert sweep.pick(choice).id == knee.id
    with pytest.raises(bitfront.InputError, match="'nothing' names no policy"):
        sweep.pick("nothing")


def test_the_model_computes_what_the_sweep_measured(sweep: bitfront.Sweep, task: bitfront.Task) -> None:
    for trial in frames.front_members(sweep.record):
        model = sweep.model(trial.number)
        assert measure(model, task.valid, task)["accuracy"] == trial.result.metrics["accuracy"]
        assert measure(model, task.valid, task)["loss"] == pytest.approx(trial.result.metrics["loss"], rel=1e-6)
        assert measure(model, task.test, task)["accuracy"] == trial.test["accuracy"]


def test_the_model_of_a_trained_policy(task: bitfront.Task, keywords: dict[str, Any]) -> None:
    sweep = bitfront.sweep(task, **keywords | {"trials": 2}, fidelity="qat", qat={"epochs": 1})
    trial = frames.front_members(sweep.record)[0]
    assert trial.result.fidelity == "qat"
    assert measure(sweep.model(trial.number), task.valid, task)["accuracy"] == trial.result.metrics["accuracy"]


def test_a_policy_outside_the_sweep_is_applied(sweep: bitfront.Sweep, task: bitfront.Task) -> None:
    layers = {name: LayerPolicy() for name in sweep.pick().policy}
    outputs = sweep.model(bitfront.Policy(layers))(task.valid[0][0])  # type: ignore[index]
    assert torch.allclose(outputs, task.model(task.valid[0][0]))  # type: ignore[index]


def test_a_policy_is_exported(sweep: bitfront.Sweep, tmp_path: Path) -> None:
    best = sweep.best(max_drop=100)
    done = sweep.export(best, tmp_path / "out", ["onnx"])
    assert set(done) == {"policy", "card", "onnx"}
    assert (tmp_path / "out/model.onnx").is_file()
    assert bitfront.Policy.from_json(json.loads((tmp_path / "out/policy.json").read_text())) == best.policy
    with pytest.raises(bitfront.InputError, match="exists; give another folder"):
        sweep.export(best, tmp_path / "out")
    with pytest.raises(bitfront.InputError, match="this sweep is not recorded"):
        sweep.export(best, tmp_path / "other", register="mine")


def test_figures_are_plotly_figures(sweep: bitfront.Sweep) -> None:
    for name in ("front", "bits", "hypervolume"):
        assert type(sweep.plot(name)).__name__ == "Figure"
    with pytest.raises(bitfront.InputError, match="unknown figure 'pie'; known: bits, front, hypervolume"):
        sweep.plot("pie")


def test_results_are_short_in_text_and_tables_in_a_notebook(sweep: bitfront.Sweep) -> None:
    assert repr(sweep).startswith(f"Sweep({sweep.name}: finished, 12 trials, 0 failed, ")
    assert "accuracy valid [%]" in sweep._repr_html_()
    best = sweep.best(max_drop=100)
    assert len(repr(best)) < 260
    assert best.id in repr(best)
    assert "int8:tensor:mse" in best._repr_html_() or "int4:tensor:mse" in best._repr_html_()


def test_units() -> None:
    assert label("energy_j") == "energy [mJ]"
    assert scaled("energy_j", 0.002) == pytest.approx(2.0)
    assert (label("peak_activation_bytes"), scaled("peak_activation_bytes", 2048)) == ("peak activation [KiB]", 2.0)
    assert (label("bits_weight_avg"), scaled("bits_weight_avg", 4.5)) == ("bits per weight", 4.5)
    assert math.isclose(scaled("accuracy_test", 0.5), 50)
