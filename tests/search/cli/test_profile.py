"""`bitfront profile`: writes a device, keeps what was measured when it is stopped, and goes on."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hw_models.loading import load_device
from hw_models.measurements import Measurement, Mode, read_measurements
from hw_models.models.measured import MeasuredCompute
from hw_models.profiling import run as profile
from hw_models.profiling.onnx import Runnable, runnable
from hw_models.table import build_table
from quant_core.spec.layer import Layer, layers_to_json
from quant_core.spec.policy import parse_layer_policy
from quant_core.util.errors import InputError
from search.cli.profile import profile_command, read_network

LAYERS = (
    Layer("fc1", "linear", 32, 10, (10, 32), (1,), (1,), 320),
    Layer("fc2", "linear", 10, 5, (5, 10), (1,), (1,), 50),
)
APP = typer.Typer()
APP.command()(profile_command)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    path = tmp_path / "layers.json"
    path.write_text(json.dumps(layers_to_json(LAYERS)))
    return ["--device-name", "mine", "--layers", str(path), "--out", str(tmp_path), "--repeats", "3"]


def test_it_measures_every_layer_and_writes_a_device_that_costs_them(arguments: list[str], tmp_path: Path) -> None:
    answer = CliRunner().invoke(APP, arguments)
    assert answer.exit_code == 0, answer.output
    assert f"wrote {tmp_path / 'mine.toml'}: 16 measurements" in answer.output
    device = load_device(tmp_path / "mine.toml")
    assert device.compute_as(MeasuredCompute).host.threads == 1
    pair = tuple(parse_layer_policy(text) for text in ("weight=float", "weight=int8:channel,activation=int8:tensor"))
    choices = {layer.name: pair for layer in LAYERS}
    assert (build_table(device, LAYERS, choices).values["latency_s"] > 0).all()


def test_what_was_measured_before_a_ctrl_c_is_kept_and_the_next_run_goes_on(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = profile.measure

    def stopped(todo: list[tuple[Layer, Mode]], settings: profile.Settings) -> Iterator[Measurement | None]:
        for number, row in enumerate(real(todo, settings)):
            if number == 3:
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(profile, "measure", stopped)
    answer = CliRunner().invoke(APP, arguments)
    assert answer.exit_code == 130
    assert "interrupted; 3 measurements are kept" in answer.output
    kept = read_measurements(tmp_path / "mine.csv", 1)
    assert len(kept) == 3
    assert load_device(tmp_path / "mine.toml").name == "mine"
    monkeypatch.setattr(profile, "measure", real)
    answer = CliRunner().invoke(APP, arguments)
    assert "13 to measure, 3 measured before" in answer.output
    assert read_measurements(tmp_path / "mine.csv", 1)[:3] == kept
    answer = CliRunner().invoke(APP, arguments)
    assert "0 to measure, 16 measured before" in answer.output


def test_modes_without_a_kernel_are_told(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_int2(layer: Layer, mode: Mode, batch: int, threads: int) -> Runnable | None:
        return None if mode.weight == "int2" else runnable(layer, mode, batch, threads)

    monkeypatch.setattr("hw_models.profiling.run.runnable", no_int2)
    answer = CliRunner().invoke(APP, arguments)
    assert "14 measurements; no kernel here for int2/float (2 shapes)" in answer.output
    monkeypatch.setattr("hw_models.profiling.run.runnable", lambda *rest: None)
    answer = CliRunner().invoke(APP, ["--device-name", "other", *arguments[2:]])
    assert isinstance(answer.exception, InputError)
    assert "nothing was measured" in str(answer.exception)


def test_layers_come_from_a_list_a_policy_a_table_of_shapes_or_an_experiment(tmp_path: Path) -> None:
    plain, policy, broken = (tmp_path / f"{name}.json" for name in ("plain", "policy", "broken"))
    plain.write_text(json.dumps(layers_to_json(LAYERS)))
    policy.write_text(json.dumps({"schema": "bitfront.policy/1", "layers": {}, "network": layers_to_json(LAYERS)}))
    assert read_network(plain) == read_network(policy) == LAYERS
    assert [layer.name for layer in read_network(None)][:2] == ["conv1", "layer1.0.conv1"]
    broken.write_text('{"layers": {}}')
    with pytest.raises(InputError, match="no 'network' in it"):
        read_network(broken)
    with pytest.raises(InputError, match=r"absent\.json: cannot be read: No such file"):
        read_network(tmp_path / "absent.json")
    experiment = Path(__file__).parents[3] / "examples" / "digits.toml"
    kinds = {layer.kind for layer in read_network(experiment)}
    assert {"conv", "linear"} <= kinds


def test_a_gpu_is_not_measured(arguments: list[str]) -> None:
    answer = CliRunner().invoke(APP, [*arguments, "--device", "cuda"])
    assert isinstance(answer.exception, InputError)
    assert "--device 'cuda' given: onnxruntime's kernels on the CPU are measured" in str(answer.exception)
