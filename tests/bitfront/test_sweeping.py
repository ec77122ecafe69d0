"""Sweeps from Python: every kind of task, with and without a record, and what goes wrong."""

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import bitfront
from search.sweeps.run import resume

ROOT = Path(__file__).parents[2]
RECORD = "sqlite:///mlflow.db"


def fronts_agree(one: bitfront.Sweep, other: bitfront.Sweep) -> bool:
    return one.front().equals(other.front())


def test_a_function_that_returns_a_task_sweeps_alike(
    sweep: bitfront.Sweep, task_maker: Callable[..., bitfront.Task], keywords: dict[str, Any]
) -> None:
    assert fronts_agree(bitfront.sweep(task_maker, **keywords), sweep)
    assert fronts_agree(bitfront.sweep(functools.partial(task_maker, seed=0), **keywords), sweep)
    other = bitfront.sweep(task_maker, **keywords, task_options={"seed": 1})
    assert other.record.fingerprints["weights"] != sweep.record.fingerprints["weights"]


def test_a_model_in_training_mode_is_left_so(
    task_maker: Callable[..., bitfront.Task], sweep: bitfront.Sweep, keywords: dict[str, Any]
) -> None:
    task = task_maker()
    task.model.train()
    assert fronts_agree(bitfront.sweep(task, **keywords), sweep)
    assert task.model.training


def test_keywords_and_sections_are_the_keys_of_the_experiment(task: bitfront.Task, keywords: dict[str, Any]) -> None:
    options = {"evaluate": {"cache_mib": 32}, "space": {"rules": [{"fix": "first", "weight": "int8:channel:mse"}]}}
    sweep = bitfront.sweep(task, **keywords, valid=100, seed=5, budget={"weight_bytes": "0.25 of float"}, name="named", options=options)
    assert sweep.name == "named"
    for line in ("cache_mib = 32", "valid = 100", "seed = 5", 'weight_bytes = "0.25 of float"', 'name = "task:object"'):
        assert line in sweep.record.experiment
    assert all(str(trial.policy["0"].weight) == "int8:channel:mse" for trial in sweep.record.trials)


def test_every_fault_is_listed(task: bitfront.Task) -> None:
    with pytest.raises(bitfront.InputError) as caught:
        bitfront.sweep(task, weight="int99:channel", device="generic-cpu", trials=0, record=None, options={"evaluate": {"speed": 1}})
    for text in ("4 faults", "space.weight", "space.activation", "search.trials", "evaluate.speed"):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"options": {"search": {"trials": 3}}}, r"trials = 12 and options\['search'\]\['trials'\] = 3 given; give one of them"),
        ({"options": {"search": 3}}, "search"),
        ({"task_options": {"seed": 1}}, r"task_options \{'seed': 1\} given with a Task, which takes none"),
        ({"device": "nowhere"}, "unknown device 'nowhere'"),
    ],
)
def test_wrong_arguments_are_refused(task: bitfront.Task, keywords: dict[str, Any], changed: dict[str, Any], message: str) -> None:
    with pytest.raises(bitfront.InputError, match=message):
        bitfront.sweep(task, **keywords | changed)


def test_what_is_no_task_is_refused(keywords: dict[str, Any]) -> None:
    wrong: Any = 3
    with pytest.raises(
        bitfront.InputError, match=r"a int given as the task; give a bitfront\.Task, a function that returns one, or a name"
    ):
        bitfront.sweep(wrong, **keywords)
    with pytest.raises(bitfront.InputError, match=r"unknown task 'digit'; known: .*Did you mean 'digits'"):
        bitfront.sweep("digit", **keywords)


def test_without_a_record_mlflow_is_never_imported_and_nothing_is_written(in_folder: Path) -> None:
    code = """
import sys, bitfront
import conftest
sweep = bitfront.sweep(conftest.make_task, **conftest.KEYWORDS, record=None)
assert sweep.record.experiment.count('name = "conftest:make_task"') == 1
sweep.front(), sweep.plot(), sweep.model("knee"), repr(sweep), sweep._repr_html_()
print([name for name in ("mlflow", "ray") if name in sys.modules])
"""
    path = [str(ROOT), str(ROOT / "tests/bitfront")]
    script = f"import sys; sys.path[:0] = {path}\n{code}"
    (in_folder / "empty").mkdir()
    done = subprocess.run([sys.executable, "-c", script], cwd=in_folder / "empty", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
    assert not list((in_folder / "empty").iterdir())


def test_a_recorded_sweep_of_an_object_is_loaded_with_its_task(
    task: bitfront.Task, sweep: bitfront.Sweep, keywords: dict[str, Any], in_folder: Path
) -> None:
    recorded = bitfront.sweep(task, **keywords | {"record": RECORD, "name": "kept"})
    loaded = bitfront.load("kept")
    assert fronts_agree(loaded, recorded)
    assert fronts_agree(loaded, sweep)
    assert recorded.record == loaded.record
    again = "this sweep's task was given as an object in Python; give it again"
    with pytest.raises(bitfront.InputError, match=again):
        loaded.model("knee")
    with pytest.raises(bitfront.InputError, match=again):
        resume(RECORD, "kept")
    assert isinstance(bitfront.load("kept", task=task).model("knee"), nn.Module)
    with pytest.raises(bitfront.InputError, match="no sweep 'kpt'"):
        bitfront.load("kpt", uri=f"sqlite:///{in_folder}/mlflow.db")


def test_another_network_is_refused(task_maker: Callable[..., bitfront.Task], sweep: bitfront.Sweep) -> None:
    other = bitfront.Sweep(sweep.record, task=task_maker(seed=1))
    with pytest.raises(bitfront.InputError, match="is bound to other weights and data"):
        other.model("knee")


def test_a_stopped_sweep_is_resumed(task: bitfront.Task, sweep: bitfront.Sweep, keywords: dict[str, Any], in_folder: Path) -> None:
    from search.sweeps import interrupt

    with pytest.MonkeyPatch.context() as patch:
        asked: list[int] = []
        patch.setattr(interrupt.StopSignal, "__call__", lambda self: len(asked) > 5 or bool(asked.append(1)))
        stopped = bitfront.sweep(task, **keywords | {"record": RECORD, "name": "halted"})
    assert (stopped.status, len(stopped.record.trials)) == ("stopped", 6)
    done = bitfront.load("halted", task=task).resume(log="none")
    assert done.status == "finished"
    assert fronts_agree(done, sweep)
    with pytest.raises(bitfront.InputError, match="this sweep is not recorded"):
        sweep.resume()


def test_progress_is_shown_on_standard_error(task: bitfront.Task, keywords: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    bitfront.sweep(task, **keywords)
    assert capfd.readouterr() == ("", "")
    bitfront.sweep(task, **keywords | {"log": "plain"})
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "trial 12/12" in shown.err
