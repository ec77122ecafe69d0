"""`bitfront measure`, `bitfront probe` and `bitfront profile --runtime`: what they print, and requests that they refuse."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hw_models.loading import PROFILED, load_device, machine_folder
from hw_models.table import build_table
from quant_core.network.trace import trace
from quant_core.spec.policy import parse_layer_policy
from quant_core.util.errors import InputError
from search import tracking
from search.cli.measure import measure_command
from search.cli.probe import probe_command
from search.cli.profile import profile_command
from search.evaluation.measure import traced_inputs
from search.exporters import measuring, profiling
from search.exporters.runtimes import RUNTIMES
from search.tasks import load
from tests.search.cli.conftest import Run

EXPERIMENT = """
[task]
name = "own_task:make"
[space]
weight = ["int8:channel"]
activation = ["int8:tensor"]
[device]
name = "this-machine:onnxruntime"
objectives = ["error", "latency_s"]
[search]
searcher = "random"
"""


def invoked(command: Callable[..., None], *arguments: object) -> str:
    app = typer.Typer()
    app.command()(command)
    answer = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if answer.exception is not None and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_times_of_a_pick_are_printed_and_recorded(tmp_path: Path, sweep: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "enough", lambda repeats, _first: repeats)
    uri = sweep(tmp_path, name="timed", task="own_task:make", weight='["int8:channel"]', activation='["int8:tensor:ema"]', trials=1)
    output = invoked(measure_command, "timed", "--pick", "0", "--repeats", "3", "--uri", uri, "--json")
    (entry,) = json.loads(output)
    assert (entry["runtime"], entry["threads"], entry["repeats"]) == ("onnxruntime", 1, 3)
    (recorded,) = tracking.read(uri, "timed").measured[0]
    assert recorded["latency_s"] == entry["latency_s"]


def test_a_network_is_profiled_into_a_device_that_costs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(profiling, "enough", lambda repeats, _first: 3)
    monkeypatch.setattr(profiling, "MODES", profiling.MODES[:2])
    (tmp_path / "e.toml").write_text(EXPERIMENT)
    arguments = ("--runtime", "onnxruntime", "--layers", tmp_path / "e.toml")
    first = invoked(profile_command, *arguments) + capsys.readouterr().out
    assert "2 of 2 uniform policies to measure in onnxruntime" in first
    assert 'use it in an experiment: [device] name = "this-machine:onnxruntime"' in first
    again = invoked(profile_command, *arguments) + capsys.readouterr().out
    assert "0 of 2 uniform policies to measure" in again
    task = load("own_task:make", {})
    layers = trace(task.model, traced_inputs(task)[0])
    pair = [parse_layer_policy(text) for text in ("weight=float", "weight=int8:channel,activation=int8:tensor")]
    table = build_table(load_device("this-machine:onnxruntime"), layers, {layer.name: pair for layer in layers})
    assert (table.values["latency_s"] > 0).all()
    assert not any(note for detail in table.details for note in detail.notes or ())
    assert (machine_folder() / "this-machine-onnxruntime.csv").is_file()


@pytest.mark.parametrize(
    ("command", "arguments", "match"),
    [
        (probe_command, ("tflite",), r"unknown runtime 'tflite'.*executorch.*litert.*onnxruntime.*openvino"),
        (measure_command, ("any", "--runtime", "onnx"), r"unknown runtime 'onnx'.*onnxruntime"),
        (
            profile_command,
            ("--runtime", "tensorrt", "--layers", "e.toml"),
            r"unknown runtime 'tensorrt'.*executorch.*litert.*onnxruntime.*openvino.*torch",
        ),
        (
            profile_command,
            ("--runtime", "openvino"),
            r"--runtime measures a whole network: give its experiment, as in --layers experiment.toml",
        ),
        (profile_command, ("--runtime", "openvino", "--layers", "shapes.csv"), r"give its experiment, as in --layers experiment\.toml\.$"),
        (profile_command, (), r"--device-name is missing; give the device a name, as my-laptop, or measure networks with --runtime"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(command: Callable[..., None], arguments: tuple[str, ...], match: str) -> None:
    with pytest.raises(InputError, match=match):
        invoked(command, *arguments)


def test_a_machine_that_was_not_measured_is_refused_with_the_command_that_measures_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"'this-machine:openvino' is not measured yet \(no runtime was measured here\); run `bitfront"):
        load_device("this-machine:openvino")


def test_a_device_of_an_unknown_runtime_is_refused_with_the_runtimes_that_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=r"unknown runtime 'tflite'; known: executorch, .*torch\..* A device of this machine is this-machine:R"
    ):
        load_device("this-machine:tflite")
    assert set(PROFILED) == set(RUNTIMES)


REQUESTS: dict[tuple[str, ...], str] = {
    ("measure", "one"): "sqlite:///none.db: .*none.db does not exist",
    ("measure", "one", "--threads", "0"): "Invalid value for '--threads'",
    ("measure", "one", "--repeats", "1"): "Invalid value for '--repeats'",
    ("measure", "one", "--runtime", "tflite"): "unknown runtime 'tflite'",
    ("measure", "one", "--pick"): "Option '--pick' requires an argument",
    ("probe",): "Missing argument 'runtime'",
    ("probe", "tflite", "--out", "kernels.toml"): "unknown runtime 'tflite'",
    ("probe", "onnxruntime", "--out", "mine/kernels.toml"): "cannot write mine/kernels.toml",
    ("profile", "--runtime", "onnxruntime"): "give its experiment, as in --layers experiment.toml",
    ("profile", "--runtime", "onnxruntime", "--layers", "absent.toml"): "absent.toml.*No such file",
    ("profile", "--runtime", "onnxruntime", "--layers", "broken.toml"): "broken.toml: not TOML",
    ("profile", "--runtime", "onnxruntime", "--layers", "unknown.toml"): "cannot import 'no_such_module'",
    ("profile", "--runtime", "onnxruntime", "--layers", "e.toml", "--device-name", "My Laptop"): "device name 'My Laptop' given",
    ("profile", "--runtime", "onnxruntime", "--layers", "e.toml", "--device-name", "counts"): "that of a device that ships with bitfront",
    ("profile", "--runtime", "onnxruntime", "--layers", "e.toml", "--out", "mine"): "cannot write mine",
    ("profile", "--runtime", "onnxruntime", "--layers", "e.toml", "--threads", "0"): "Invalid value for '--threads'",
    ("profile", "--runtime", "onnxruntime", "--layers", "e.toml", "--repeats", "2"): "Invalid value for '--repeats'",
    ("profile", "--runtime", "onnxruntime", "--layers", "e.toml", "--device", "cuda"): "--device 'cuda' given",
    ("profile", "--layers", "e.toml"): "--device-name is missing",
    ("profile", "--runtime", "onnxruntime", "--layers", "e.toml", "--batch", "8"): "--batch 8 given: --runtime measures .* one example",
    ("profile", "--device-name", "laptop", "--layers", "absent.json"): "absent.json: cannot be read",
}


def test_twenty_bad_requests_are_one_sentence_and_leave_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///none.db")
    contents = {
        "mine": "mine",
        "broken.toml": "[task",
        "e.toml": EXPERIMENT,
        "unknown.toml": EXPERIMENT.replace("own_task", "no_such_module"),
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    assert len(REQUESTS) >= 20
    faults = []
    for arguments, message in REQUESTS.items():
        done = run(*arguments)
        said, left = " ".join(done.stderr.split()), {path.name: path.read_text() for path in tmp_path.iterdir() if path.name != "cache"}
        if done.returncode != 2 or not re.search(message, said) or "Traceback" in said or left != contents:
            faults.append((arguments, done.returncode, said, sorted(left)))
    assert not faults
