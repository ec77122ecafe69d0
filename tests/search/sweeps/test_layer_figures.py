"""The figures of layers come from what is kept beside the sensitivities, and from nowhere else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quant_core.spec.layer import Layer
from search.config.experiment import Experiment
from search.config.files import loads
from search.records.front import front_members
from search.records.record import SweepRecord
from search.records.summary import suggested
from search.sweeps.basis import CODE, Basis, keep, plan_of
from search.sweeps.layer_figures import layer_figures

MakeSweep = Callable[..., SweepRecord]
TEXT = """
[task]
name = "digits"
[space]
weight = ["int4:channel", "int8:channel"]
activation = ["int8:tensor"]
[device]
name = "vu9p-bitserial"
objectives = ["error", "weight_bytes"]
"""
LAYERS = tuple(Layer(f"l{n}", "linear", 8, 4, (4, 8), (1,), (1,), 32) for n in range(3))
PRINTS = {"weights": "aa", "data": "2:bb", "space": "cc"}


@pytest.fixture
def sweep(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SweepRecord:
    """Return a sweep whose trials are points of a space of three layers."""
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "cache"))
    made = make_sweep(trials=12)
    trials = tuple(replace(trial, values=(trial.number % 2, 0, 1)) for trial in made.trials)
    return replace(made, experiment=TEXT, fingerprints=PRINTS, trials=trials)


def test_they_are_those_of_the_suggested_policy(sweep: SweepRecord) -> None:
    assert layer_figures(sweep) is None, "nothing is kept"
    basis = Basis(LAYERS, (), tuple(np.array([0.5 / (n + 1), 0.0]) for n in range(3)), 0.0)
    experiment: Experiment = loads(TEXT, "text")
    keep(basis, experiment, PRINTS)
    figures, pick = layer_figures(sweep), suggested(sweep, front_members(sweep))
    assert figures is not None
    assert pick is not None
    assert (figures.layers, figures.policy) == (("l0", "l1", "l2"), pick.policy.id)
    assert figures.rises["weight"]["l1"] == {"int4:channel": 0.25, "int8:channel": 0.0}
    plan = plan_of(basis, experiment, ["accuracy"])
    whole = plan.table.cost(plan.space.layer_index(np.array([pick.values])))
    for metric in ("weight_bytes", "latency_s"):
        assert sum(figures.costs[metric]) == pytest.approx(whole[metric][0])
    assert figures.costs["weight_bytes"][1] < figures.costs["weight_bytes"][2], "4 bits and 8 bits"


def test_those_that_earlier_code_kept_are_shown_unless_it_made_other_choices(sweep: SweepRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tuple(np.array([0.5 / (n + 1), 0.0]) for n in range(3))
    monkeypatch.setattr("search.sweeps.basis.CODE", ("spaces",))
    keep(Basis(LAYERS, (), rows, 0.0), loads(TEXT, "text"), PRINTS)
    monkeypatch.setattr("search.sweeps.basis.CODE", CODE)
    figures = layer_figures(sweep)
    assert figures is not None
    assert figures.rises["weight"]["l0"]["int4:channel"] == 0.5
    monkeypatch.setattr("search.sweeps.basis.CODE", ("spaces", "hw_models"))
    keep(Basis(LAYERS, (), (*rows[:2], np.array([1.0, 2.0, 0.0])), 0.0), loads(TEXT, "text"), PRINTS)
    assert layer_figures(sweep) is None


def test_a_sweep_of_foreign_code_has_none(sweep: SweepRecord) -> None:
    foreign = replace(sweep, experiment=TEXT.replace('"digits"', '"somebodys_module:make"'))
    keep(Basis(LAYERS, (), (), 0.0), loads(foreign.experiment, "text"), PRINTS)
    assert layer_figures(foreign) is None
    assert layer_figures(replace(sweep, experiment="no experiment")) is None
