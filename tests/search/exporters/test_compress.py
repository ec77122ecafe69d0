"""`compress`: one call from a network and a target to files; what is in the lines is what the record and the files say."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

import bitfront
from bitfront import InputError
from search.config.targets import TARGETS, target_of
from search.exporters.compress import experiment_for, task_of
from search.records.selection import within_drop
from search.sweeps.interrupt import Timer


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
    monkeypatch.setattr("search.exporters.compress.MOST_TRIALS", 6)
    done = bitfront.compress(task, target, tmp_path / "out", minutes=0, record=record, log="none")
    aim = target_of(target)
    if target in ("openvino", "gguf"):
        pytest.importorskip(target)
    assert set(done.written) == {"policy", "card", *aim.formats}
    chosen = within_drop(done.record, [trial for trial in done.record.trials if trial.test], 0.5)
    assert done.selection.trial.number == chosen.trial.number
    report = json.loads((tmp_path / "out" / "export.json").read_text())
    assert report["metrics"]["test"]["accuracy"] == done.selection.trial.test["accuracy"]
    size, accuracy, latency, files, note = done.lines()
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
    """The clock moves a minute whenever it is read: after two trials no third one begins."""
    seconds = iter(range(0, 100_000, 60))
    monkeypatch.setattr("search.sweeps.run.Timer", lambda minutes: Timer(minutes, lambda: float(next(seconds))))
    done = bitfront.compress(task, "safetensors", tmp_path / "out", minutes=3, record=record, log="none")
    assert done.record.status == "stopped", "it can be resumed"
    assert len(done.record.trials) == 2
    assert not done.selection.trial.test, "the front is judged when the sweep is done"
    assert 0 < done.metrics["test"]["accuracy"] <= 1
    monkeypatch.undo()
    resumed = bitfront.load(done.record.name, uri=record, task=task)
    assert resumed.status == "stopped"


class Interrupting:
    """Stands in for the clock: it presses Ctrl-C when it is asked for the third time, after two trials."""

    asked = 0

    @property
    def over(self) -> bool:
        self.asked += 1
        if self.asked == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return False


def test_ctrl_c_ends_the_trials_and_the_best_so_far_is_exported(
    task: bitfront.Task, record: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.sweeps.run.Timer", lambda _minutes: Interrupting())
    done = bitfront.compress(task, "safetensors", tmp_path / "out", record=record, log="none")
    assert done.record.status == "stopped"
    assert 0 < len(done.record.trials) <= 4
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert done.lines()[0].startswith("size: ")


def test_a_timer() -> None:
    now = [0.0]
    assert not Timer(0, lambda: 1e12).over
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
