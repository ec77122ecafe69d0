"""Every format on the whole front of sweeps, read back in a fresh process."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from quant_core.util.errors import BitfrontError
from search import tracking
from search.exporters import flow
from tests.forked import ran

ROOT = Path(__file__).parents[3]
Call = Callable[..., "subprocess.CompletedProcess[str]"]
Rows = list[dict[str, float]]
WEIGHT = '["int2:channel:mse", "int3:channel:mse", "int4:channel:mse", "int6:channel:mse", "int8:channel"]'
ACTIVATION = '["int8:tensor:ema", "int4:tensor:mse"]'
FRESH = """
import json, sys
import numpy as np, onnxruntime, torch
from pathlib import Path
from quant_core.export.reading import load_quantized
from search.tasks import load
task = load(sys.argv[1], json.loads(sys.argv[2]))
(x, y), = [(torch.cat(x), torch.cat(y)) for x, y in [zip(*task.test)]]
for folder, options in json.loads(sys.argv[3]).items():
    model = load_quantized(Path(folder), task.model, next(iter(task.calib))[0])
    session_options = onnxruntime.SessionOptions()
    if options != "default":
        session_options.add_session_config_entry(*options.split("="))
    session = onnxruntime.InferenceSession(folder + "/model.onnx", session_options, providers=["CPUExecutionProvider"])
    results = [model(x).detach(), torch.from_numpy(session.run(None, {"input": x.numpy()})[0])]
    print(json.dumps([float((outputs.argmax(1) == y).double().mean()) for outputs in results]))
"""


def exported(
    bitfront: Call, uri: str, name: str, formats: Sequence[str], folder: Path
) -> tuple[Rows, dict[str, dict[str, dict[str, float]]]]:
    """Export every member of the front; return the front, and id -> format -> checks."""
    rows: Rows = json.loads(bitfront("front", name, "--json", "--uri", uri).stdout)
    assert [row["trial"] for row in rows if row["accuracy_test"] is None] == [], "every member is judged on the test split"
    checks = {}
    for row in rows:
        out = folder / str(row["id"])
        done = bitfront(
            "export", name, "--pick", row["id"], *(part for format_ in formats for part in ("-f", format_)), "--out", out, "--uri", uri
        )
        assert done.returncode == 0, done.stderr
        report = json.loads((out / "export.json").read_text())
        checks[str(row["id"])] = {format_: figures["checks"] for format_, figures in report["formats"].items()}
        for format_ in formats:
            assert set(report["formats"][format_]["files"]) <= {path.name for path in out.iterdir()}
    return rows, checks


def fresh(task: str, options: dict[str, object], checks: dict[str, dict[str, dict[str, float]]], folder: Path) -> None:
    """Measure what was written in a process of its own; it gives the accuracy that the export printed."""
    options_of = {str(folder / id_): formats["onnx"]["onnxruntime_options"] for id_, formats in checks.items()}
    paths = os.pathsep.join((str(ROOT), str(Path(__file__).parents[1])))
    done = ran(task, json.dumps(options), json.dumps(options_of), script=FRESH, env=os.environ | {"PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    for formats, line in zip(checks.values(), done.stdout.splitlines(), strict=True):
        wanted = [formats[name]["accuracy_test"] for name in ("safetensors", "onnx")]
        assert json.loads(line) == pytest.approx(wanted, abs=1e-6)


def check_figures(row: dict[str, float], checks: dict[str, dict[str, float]], agreement: float, layers: int) -> None:
    """Hold what one export says against the front and the promises of the cost table."""
    onnx, packed, compiled = checks["onnx"], checks["safetensors"], checks["c-array"]
    assert (packed["accuracy_test"], packed["largest_output_difference"]) == (row["accuracy_test"], 0)
    promised = row["weight_bytes"] + packed["other_bytes"]
    assert promised <= packed["file_bytes"] <= 1.01 * promised + 4096
    assert onnx["top1_agreement"] >= agreement
    assert onnx["opset"] >= 21
    assert onnx["payload_bytes"] <= 1.05 * (row["weight_bytes"] + onnx["carrier_bytes"])
    assert onnx["file_bytes"] - onnx["payload_bytes"] - packed["other_bytes"] <= layers * 800, "bytes of the graph itself"
    assert compiled["integers_different"] == 0
    assert compiled["integers_compared"] > 10_000
    assert compiled["top1_agreement"] >= agreement
    assert compiled["largest_output_difference"] <= 0.1 * compiled["largest_output"]


@pytest.mark.slow
def test_the_front_of_digits(tmp_path: Path, bitfront: Call, sweep: Callable[..., str]) -> None:
    uri = sweep(tmp_path, name="digits", task="digits", weight=WEIGHT, activation=ACTIVATION, trials=8)
    rows, checks = exported(bitfront, uri, "digits", ("safetensors", "onnx", "c-array"), tmp_path)
    assert len(rows) > 2
    for row in rows:
        check_figures(row, checks[str(row["id"])], 0.99, 9)
        applied = json.loads(bitfront("apply", tmp_path / str(row["id"]) / "policy.json", "--task", "digits", "--json").stdout)
        assert applied["accuracy_test"] == row["accuracy_test"]
    fresh("digits", {}, checks, tmp_path)
    refused = bitfront("export", "digits", "--uri", uri, "-f", "torchao", "--out", tmp_path / "new")
    assert (refused.returncode, "torchao quantizes linear layers, this is a conv; use onnx" in refused.stderr) == (2, True)


@pytest.mark.slow
def test_the_front_of_fashion_mnist(tmp_path: Path, bitfront: Call, sweep: Callable[..., str], shared_data: Path) -> None:
    """A small network of our own, trained for one epoch."""
    options = {"path": str(shared_data), "network": "own_task:tiny", "epochs": 1, "calib_size": 128, "valid_size": 500, "test_size": 1000}
    text = "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in options.items()) + " }"
    uri = sweep(tmp_path, name="fashion", task="fashion_mnist", options=text, weight=WEIGHT, activation=ACTIVATION, trials=6)
    rows, checks = exported(bitfront, uri, "fashion", ("safetensors", "onnx", "c-array"), tmp_path)
    assert len(rows) > 1
    assert max(row["accuracy_test"] for row in rows) > 0.7
    for row in rows:
        check_figures(row, checks[str(row["id"])], 0.99, 5)
    fresh("fashion_mnist", options, checks, tmp_path)


def test_the_front_of_a_network_of_linear_layers(tmp_path: Path, bitfront: Call, sweep: Callable[..., str]) -> None:
    """What is written for transformers is tried by their libraries."""
    pytest.importorskip("torchao")
    pytest.importorskip("compressed_tensors")
    weight = '["int4:channel", "int8:channel", "int4:group4"]'
    uri = sweep(tmp_path, name="linear", task="own_task:make", weight=weight, activation='["float"]', trials=5)
    rows, checks = exported(bitfront, uri, "linear", ("safetensors", "onnx", "torchao", "vllm"), tmp_path)
    for row in rows:
        figures = checks[str(row["id"])]
        assert figures["torchao"]["accuracy_test"] == pytest.approx(row["accuracy_test"], abs=0.1)
        assert (figures["torchao"]["layers"], figures["vllm"]["layers"]) == (3, 3)
        assert figures["vllm"]["validated_by"] == "compressed_tensors.quantization.QuantizationConfig"
        assert figures["onnx"]["top1_agreement"] == 1
    fresh("own_task:make", {}, checks, tmp_path)


@pytest.mark.slow
def test_the_front_of_a_sweep_that_trains(
    tmp_path: Path, bitfront: Call, sweep: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trained weights are exported: every format has the accuracy that was recorded, which quantizing after training does not give."""
    evaluate = 'fidelity = "qat"\nqat = { method = "lsq", epochs = 1 }'
    weight, activation = '["int2:channel:mse", "int4:channel:mse"]', '["int4:tensor:mse"]'
    uri = sweep(tmp_path, name="trained", task="digits", weight=weight, activation=activation, trials=3, evaluate=evaluate)
    rows, checks = exported(bitfront, uri, "trained", ("safetensors", "onnx", "c-array"), tmp_path)
    for row in rows:
        out = tmp_path / str(row["id"])
        check_figures(row, checks[str(row["id"])], 0.99, 9)
        assert json.loads((out / "export.json").read_text())["metrics"]["valid"]["accuracy"] == row["accuracy_valid"]
        untrained = json.loads(bitfront("apply", out / "policy.json", "--task", "digits", "--json").stdout)
        assert untrained["accuracy_test"] != row["accuracy_test"]
    fresh("digits", {}, checks, tmp_path)
    _refused_where_training_gives_other_weights(uri, tmp_path, monkeypatch)


def _refused_where_training_gives_other_weights(uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tracking.read(uri, "trained")
    first = record.trials[0]
    other = replace(first, result=replace(first.result, metrics={**first.result.metrics, "accuracy": 0.5}))
    monkeypatch.setattr(flow.tracking, "read", lambda *_: replace(record, trials=(other, *record.trials[1:])))
    with pytest.raises(
        BitfrontError, match=r"training trial 0 again gives other weights: accuracy on valid was recorded as 0\.500000, here"
    ):
        flow.export(uri, "trained", "0", ["policy"], folder / "new")
    assert not (folder / "new").exists()


def test_formats_that_onnx_cannot_represent(tmp_path: Path, bitfront: Call, sweep: Callable[..., str]) -> None:
    """Packed they all are; ONNX refuses some by name, and takes their values as float constants on request."""
    spoken, silent = ["nvfp4", "int4:vector8", "int5:channel:affine"], ["kmeans4:tensor", "mx6", "mxfp4", "ternary:twn", "binary:channel"]
    uri = sweep(
        tmp_path, name="odd", task="own_task:make", weight=json.dumps(spoken + silent), activation='["float"]', trials=8, device="counts"
    )
    trials = {str(next(iter(trial.policy.values())).weight): trial for trial in tracking.read(uri, "odd").trials}
    assert set(trials) == {*spoken, *silent}, "uniform policies come first"
    for spec, trial in trials.items():
        command = ("export", "odd", "--uri", uri, "--pick", trial.number, "-f", "safetensors", "-f", "onnx", "--out", tmp_path / spec)
        done = bitfront(*command)
        assert (done.returncode == 0) == (spec in spoken), done.stderr
        if spec in silent:
            assert re.search(rf"layer '0': ONNX has no operator for {spec}; use .*--allow-dequantized", done.stderr)
            assert not (tmp_path / spec).exists()
            done = bitfront(*command, "--allow-dequantized")
            assert f"note: {spec} weights are stored dequantized, in float32: 0, 2, 4" in done.stdout
        formats = json.loads((tmp_path / spec / "export.json").read_text())["formats"]
        assert formats["safetensors"]["checks"]["largest_output_difference"] == 0
        assert formats["onnx"]["checks"]["top1_agreement"] == 1
