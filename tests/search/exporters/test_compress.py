"""`compress`: one call from a network and a target to files; what is in the lines is what the record and the files say."""

import json
import math
import os
import re
import shutil
import signal
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bitfront
from bitfront import InputError
from search.config.files import loads
from search.config.targets import TARGETS, target_of
from search.exporters.compress import experiment_for, task_of, with_plan
from search.exporters.look import look
from search.exporters.minutes import plan
from search.records.selection import within_drop
from search.sweeps.context import open_context
from search.sweeps.interrupt import Timer
from search.sweeps.run import resume


@pytest.fixture
def task() -> bitfront.Task:
    torch.manual_seed(0)
    data = torch.randn(900, 32)
    network = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    targets = network(data).argmax(dim=1)
    splits = [[(data[i : i + 300], targets[i : i + 300])] for i in (0, 300, 600)]
    return bitfront.Task(network, splits[0], *splits)


@pytest.fixture
def record(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "gguf", "c-array", "vu9p-bitserial"])
def test_every_target_is_compressed_for(
    target: str, task: bitfront.Task, record: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.exporters.minutes.MOST_TRIALS", 6)
    monkeypatch.setattr("search.exporters.minutes.STEPS", (5,))
    done = bitfront.compress(task, target, tmp_path / "out", minutes=0, record=record, log="none")
    aim = target_of(target)
    if target in ("openvino", "gguf"):
        pytest.importorskip(target)
    assert set(done.written) == {"policy", "card", *aim.formats}
    chosen = within_drop(done.record, [trial for trial in done.record.trials if trial.test], 0.5)
    assert done.selection.trial.number == chosen.trial.number
    report = json.loads((tmp_path / "out" / "export.json").read_text())
    assert report["metrics"]["test"]["accuracy"] == done.selection.trial.test["accuracy"]
    size, accuracy, latency, files, note, planned = done.lines()
    assert planned.startswith("plan (no limit of time): at most 6 trials by auto; ")
    few_bits = target not in ("onnxruntime",)
    assert ("reconstructed in 5 steps per block" in planned) == few_bits
    assert any(trial.result.fidelity == "reconstruct" for trial in done.record.trials) == few_bits
    assert f"-> {done.selection.trial.result.cost['weight_bytes'] / 1024:.4g} KiB" in size
    assert f"{100 * report['metrics']['test']['accuracy']:.2f} %" in accuracy
    assert accuracy.count("±") == 2
    assert all((tmp_path / "out" / Path(file).name).is_file() for file in files.removeprefix("files: ").split(", "))
    assert chosen.note in note
    expected = (
        "by the model of vu9p-bitserial"
        if target == "vu9p-bitserial"
        else "one thread"
        if target in ("onnxruntime", "openvino")
        else "not measured"
    )
    assert expected in latency


def test_the_time_ends_the_trials_and_the_choice_is_exported(
    task: bitfront.Task, record: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock moves a minute whenever it is read: twice for the plan, then after every trial. After the third no other one begins."""
    seconds = iter(range(0, 100_000, 60))
    monkeypatch.setattr("search.exporters.compress.Timer", lambda minutes: Timer(minutes, lambda: float(next(seconds))))
    done = bitfront.compress(task, "safetensors", tmp_path / "out", minutes=5, record=record, log="none")
    assert done.record.status == "stopped", "it can be resumed"
    assert len(done.record.trials) == 3
    assert not done.selection.trial.test, "the front is judged when the sweep is done"
    assert 0 < done.metrics["test"]["accuracy"] <= 1
    monkeypatch.undo()
    resumed = bitfront.load(done.record.name, uri=record, task=task)
    assert resumed.status == "stopped"


class Counted:
    """Batches that count the examples that are read."""

    read = 0

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = [(inputs[i : i + 4], targets[i : i + 4]) for inputs, targets in batches for i in range(0, len(inputs), 4)]

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            Counted.read += len(batch[0])
            yield batch


class Interrupting:
    """Stands in for the clock: it presses Ctrl-C when it is asked for the third time, after three trials."""

    asked = 0
    left = 600.0

    @property
    def over(self) -> bool:
        self.asked += 1
        if self.asked == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return False


def test_ctrl_c_ends_the_trials_and_the_best_so_far_is_exported(
    task: bitfront.Task, record: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.exporters.compress.Timer", lambda _minutes: Interrupting())
    done = bitfront.compress(task, "safetensors", tmp_path / "out", record=record, log="none")
    assert done.record.status == "stopped"
    assert 0 < len(done.record.trials) <= 4
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert done.lines()[0].startswith("size: ")


def test_a_timer() -> None:
    now = [0.0]
    assert not Timer(0, lambda: 1e12).over
    assert Timer(0, lambda: 1e12).left == math.inf
    timer = Timer(48 * 60, lambda: now[0])
    now[0] = 48 * 3600 - 1.0
    assert not timer.over
    now[0] += 1.0
    assert timer.over


@pytest.mark.parametrize(
    ("model", "target", "options", "message"),
    [
        ("digits", "onnxruntim", {}, r"--for 'onnxruntim' given; runtimes: .*devices: .*onnxruntime"),
        ("resnet", "safetensors", {}, r"'resnet' given; MODEL is a task \(digits, .*\), hf:FOLDER-OR-ID, module:function"),
        ("other/net.py", "safetensors", {}, r"'other/net.py' given; a task file in this folder is needed"),
        ("missing.py", "safetensors", {}, r"'missing.py' given; a task file in this folder"),
        ("digits", "safetensors", {"data": "x"}, r"--data given, but task 'digits' takes neither data nor path"),
    ],
)
def test_what_cannot_be_compressed(model: str, target: str, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        experiment_for(model, target_of(target), **options)


def test_the_forms_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert task_of("hf:folder/net", {"kind": "causal-lm"}) == ("hf", {"model": "folder/net", "kind": "causal-lm"})
    assert task_of("pkg.module:make", {}) == ("pkg.module:make", {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("")
    assert task_of("mine.py", {}) == ("mine:task", {})
    assert experiment_for("efficientnet_lite0", TARGETS["onnxruntime"], data="here").task.options == {"path": "here"}


def test_an_export_that_is_there_is_not_touched(task: bitfront.Task, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        bitfront.compress(task, "safetensors", tmp_path / "out", record=f"sqlite:///{tmp_path}/mlflow.db", log="none")
    assert not (tmp_path / "mlflow.db").exists()


def test_a_time_that_is_over_before_the_first_trial_still_gives_files(task: bitfront.Task, record: str, tmp_path: Path) -> None:
    """A thousandth of a second: one uniform policy of the widest formats, on few examples, and the export."""
    done = bitfront.compress(task, "c-array", tmp_path / "out", minutes=1e-5, record=record, log="none")
    assert [trial.policy["0"].weight.bits for trial in done.record.trials] == [8]
    assert done.record.baseline["examples_valid"] == 64
    assert done.record.status == "stopped"
    assert (tmp_path / "out" / "model.h").is_file() or any((tmp_path / "out").glob("*.h"))
    assert "1 trial, uniform policies alone in the widest formats" in done.plan
    resumed = resume(record, done.record.name, context=open_context(loads(done.record.experiment, "record"), task), log="none")
    assert resumed.record.status == "finished", "the front is judged on the test split when the sweep goes on"
    assert resumed.record.trials[0].test


def test_the_latency_before_is_float_or_what_the_device_runs(task: bitfront.Task, record: str, tmp_path: Path) -> None:
    shown = {}
    for device in ("generic-cpu", "vu9p-bitserial"):
        done = bitfront.compress(task, device, tmp_path / device, minutes=1e-5, record=record, log="none")
        shown[device] = done.lines()[2]
        before, after = (float(text) for text in re.findall(r"([0-9.e-]+) ms", shown[device]))
        assert after == pytest.approx(1e3 * done.selection.trial.result.figures["latency_s"], rel=1e-3)
        assert done.modelled is not None
        assert before == pytest.approx(1e3 * done.modelled[0], rel=1e-3)
    assert " ms in float -> " in shown["generic-cpu"]
    assert " in uniform int8, as the device runs no float -> " in shown["vu9p-bitserial"]


def test_sizes_are_those_of_the_time(task: bitfront.Task) -> None:
    experiment = experiment_for("task:object", target_of("c-array"), minutes=1)
    costs, widest = look(experiment, task, 60.0)
    assert (costs.calib, costs.valid, costs.test) == (300, 300, 300)
    unlimited, _ = look(experiment, replace(task, valid=Counted(task.valid)), math.inf)
    assert Counted.read < 300, "nothing is read to be counted"
    assert unlimited.valid == 0
    assert (costs.baselines, costs.formats, costs.few_bits) == (3, 3, True)
    assert 0 < costs.float_s <= costs.trial_s < 0.1
    assert list(map(str, widest)) == ["int8:channel:mse"]
    chosen = plan(60.0, replace(costs, float_s=1e-3, trial_s=2e-3, first_s=0.0, open_s=0.0))
    planned = with_plan(experiment, chosen, widest)
    assert (planned.search.trials, planned.search.searcher) == (chosen.trials, chosen.searcher)
    assert (planned.evaluate.calib, planned.evaluate.valid, planned.evaluate.test) == (chosen.calib, chosen.valid, chosen.test)
    assert not planned.space.rules
    narrow = with_plan(experiment, plan(0.0, costs), widest)
    assert [str(spec) for spec in narrow.space.rules[0].weight or ()] == ["int8:channel:mse"]
