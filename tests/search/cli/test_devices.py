import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from hw_models.device import FOLDER
from hw_models.loading import device_names, load_device
from hw_models.shapes import read_layers
from hw_models.table import cost_policy
from quant_core.spec.layer import Layer, layers_to_json
from quant_core.spec.policy import LayerPolicy, Policy, parse_layer_policy
from quant_core.util.errors import InputError
from search.cli.devices import cost_command, devices_app

TABLE = FOLDER / "haq_vu9p_mobilenetv2.csv"
ROOT = Path(__file__).parents[3]


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command("cost")(cost_command)
    app.add_typer(devices_app, name="devices")
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


@pytest.fixture
def network() -> tuple[Layer, ...]:
    return read_layers(TABLE)


@pytest.fixture
def policy(network: tuple[Layer, ...]) -> Policy:
    return Policy(dict.fromkeys((layer.name for layer in network), parse_layer_policy("weight=int4:channel,activation=int8:tensor")))


@pytest.fixture
def policy_file(tmp_path: Path, network: tuple[Layer, ...], policy: Policy) -> Path:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy.to_json() | {"network": layers_to_json(network)}))
    return path


def test_devices_lists_every_device() -> None:
    shown = run("devices")
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in device_names())
    assert [layer["name"] for layer in json.loads(run("devices", "--json").stdout)] == list(device_names())


def test_show_lists_devices_and_runtimes_where_there_is_none_of_that_name() -> None:
    message = str(run("devices", "show", "tflite").exception)
    assert "unknown device 'tflite'; known: " in message
    assert message.endswith("Runtimes that can be shown: executorch, litert, onnxruntime, openvino.")
    here = str(run("devices", "show", "this-machine:tflite").exception)
    assert here.endswith("A device of this machine is this-machine:RUNTIME.")


def test_show_prints_capability_sources_and_measured_error() -> None:
    shown = run("devices", "show", "t4").stdout
    assert "weights int4, int8, float, int1-3, int5-7" in shown
    assert "Yao et al., HAWQ-V3" in shown
    assert "5.77 %" in shown
    assert "codes run as: int1-3 as int4, int5-7 as int8; int4/int8 as int8/int8" in shown
    assert "stored as: own bits, packed; moved: as what runs" in shown
    assert "latency is off by 7.72 % on average, 33.3 % at most" in shown
    assert "UNCALIBRATED (datasheet peak and bandwidth): mean error 94 %" in shown
    data = json.loads(run("devices", "show", "pynq-z1-bismo", "--json").stdout)
    assert data["file"]["identity"]["kind"] == "bitserial"
    assert data["checks"][0]["rank"] is None
    assert "nothing is known of its error" in run("devices", "show", "h200").stdout


def test_validate_prints_the_figures_and_exits_zero() -> None:
    shown = run("devices", "validate", "vu9p-bitserial")
    assert shown.exit_code == 0
    assert all(text in shown.stdout for text in ("2000", "1.77 %", "2.96 %", "0.9998", "ok", "Wang et al., HAQ"))
    (check,) = json.loads(run("devices", "validate", "vu9p-bitserial", "--json").stdout)
    assert (check["n"], check["passed"]) == (2000, True)


def test_validate_against_a_wrong_file_exits_one_and_names_the_row(tmp_path: Path) -> None:
    assert run("devices", "validate", "vu9p-lut", "--golden", str(TABLE)).exit_code == 0
    with TABLE.open(newline="") as stream:
        rows = list(csv.reader(stream))
    true, rows[100][-1] = rows[100][-1], "1"
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("\n".join(",".join(row) for row in rows))
    shown = run("devices", "validate", "vu9p-lut", "--golden", str(wrong))
    assert shown.exit_code == 1
    assert "3391 of 3392 rows exact" in shown.stdout
    assert f"layer 1 at 5/4: expected 1, model {true}" in shown.stdout


def test_golden_without_a_device_is_refused() -> None:
    failed = run("devices", "validate", "--golden", str(TABLE))
    assert isinstance(failed.exception, InputError)
    assert "--golden was given without a device" in str(failed.exception)


def test_cost_prints_every_layer_and_the_totals(policy_file: Path, policy: Policy, network: tuple[Layer, ...]) -> None:
    shown = run("cost", str(policy_file), "--device", "mpic")
    assert shown.exit_code == 0
    totals = cost_policy(load_device("mpic"), network, policy)
    assert f"{totals['latency_s'] * 1e3:.4g}" in shown.stdout
    assert f"{totals['energy_j'] * 1e3:.4g}" in shown.stdout
    assert shown.stdout.count("int4:channel") == 53
    data = json.loads(run("cost", str(policy_file), "--device", "mpic", "--json").stdout)
    assert data["totals"] == totals
    assert [row["layer"] for row in data["layers"]] == [layer.name for layer in network]
    assert sum(row["weight_bytes"] for row in data["layers"]) == totals["weight_bytes"]


def test_cost_exits_one_past_a_hard_limit(policy_file: Path) -> None:
    shown = run("cost", str(policy_file), "--device", "stm32h743-tinyengine")
    assert shown.exit_code == 1
    assert "peak_activation_bytes 1404928 is over the 524288 of stm32h743-tinyengine; layer '3' needs most." in shown.stdout
    data = json.loads(run("cost", str(policy_file), "--device", "stm32h743-tinyengine", "--json").stdout)
    assert data["excess"]
    assert data["latency_error"] in shown.stdout
    assert data["latency_error"] == load_device("stm32h743-tinyengine").latency_error != ""


def test_cost_takes_the_layers_from_a_file_where_the_policy_has_none(tmp_path: Path, policy: Policy, network: tuple[Layer, ...]) -> None:
    bare, layers = tmp_path / "bare.json", tmp_path / "layers.json"
    bare.write_text(json.dumps(policy.to_json()))
    layers.write_text(json.dumps(layers_to_json(network)))
    reports = [json.loads(run("cost", str(bare), "--device", "counts", "--layers", str(path), "--json").stdout) for path in (layers, TABLE)]
    assert reports[0] == reports[1]
    assert "give the network's layers with --layers" in str(run("cost", str(bare), "--device", "counts").exception)


def test_cost_refuses_what_it_cannot_read(tmp_path: Path, policy_file: Path, network: tuple[Layer, ...]) -> None:
    assert "nowhere.json: cannot be read: No such file" in str(run("cost", str(tmp_path / "nowhere.json"), "--device", "counts").exception)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert "broken.json: not JSON" in str(run("cost", str(broken), "--device", "counts").exception)
    less = Policy({layer.name: LayerPolicy() for layer in network[1:]}).to_json() | {"network": layers_to_json(network)}
    broken.write_text(json.dumps(less))
    assert "no entry for layers 0; it names 1" in str(run("cost", str(broken), "--device", "counts").exception)
    assert "unknown device 'nope'" in str(run("cost", str(policy_file), "--device", "nope").exception)


def test_the_commands_load_no_torch() -> None:
    code = "import search.cli.devices, hw_models.loading, sys; hw_models.loading.load_device('t4'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
