"""A recorded sweep as an Optuna study: what Optuna reads back is what the record holds."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from quant_core.util.errors import BitfrontError, InputError
from search.records.front import figures, front_members
from search.searchers.optuna import recorded
from search.searchers.optuna.recorded import write_study
from tests.search.conftest import MakeSweep


def test_a_study_holds_the_sweep(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep(limits={"weight_bytes": 2500.0})
    storage = f"sqlite:///{tmp_path}/optuna.db"
    assert write_study(sweep, storage) == sweep.name
    study = optuna.load_study(study_name=sweep.name, storage=storage)
    assert study.metric_names == list(sweep.objectives)
    assert study.user_attrs["experiment"] == sweep.experiment
    assert len(study.trials) == len(sweep.trials)
    for frozen, trial in zip(study.trials, sweep.trials, strict=True):
        assert frozen.state is (TrialState.COMPLETE if trial.result.ok else TrialState.FAIL)
        assert frozen.user_attrs["policy"] == trial.policy.id
        if trial.result.ok:
            assert frozen.values == [figures(trial)[name] for name in sweep.objectives]
            layers = {name: str(choice.weight) for name, choice in trial.policy.items()}
            assert {name.removesuffix(".weight"): value for name, value in frozen.params.items()} == layers
            assert (frozen.constraints["weight_bytes"] <= 0) == (figures(trial)["weight_bytes"] <= 2500.0)
    best = {trial.user_attrs["trial of the sweep"] for trial in study.best_trials}
    assert (
        best
        == {trial.number for trial in front_members(sweep)}
        == {trial.user_attrs["trial of the sweep"] for trial in study.trials if trial.user_attrs["on the front"]}
    )


def test_a_study_is_not_written_twice(make_sweep: MakeSweep, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/optuna.db"
    write_study(make_sweep(), storage)
    with pytest.raises(InputError, match="has a study 'made-up' already; give another --name"):
        write_study(make_sweep(), storage)
    assert write_study(make_sweep(), storage, "second") == "second"


def test_a_study_that_fails_half_way_leaves_nothing(make_sweep: MakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = f"sqlite:///{tmp_path}/optuna.db"

    def fail(*_: object) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(optuna.Study, "add_trials", fail)
    with pytest.raises(RuntimeError, match="disk is full"):
        write_study(make_sweep(), storage)
    assert recorded.optuna.get_all_study_names(storage) == []


def test_what_no_study_can_be_made_of(make_sweep: MakeSweep, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="storage cannot be opened"):
        write_study(make_sweep(), f"sqlite:///{tmp_path}/missing/optuna.db")
    with pytest.raises(BitfrontError, match="has no trial that ended"):
        write_study(make_sweep(trials=0), f"sqlite:///{tmp_path}/optuna.db")
