"""A policy in MLflow's registry: loaded by its alias in a fresh process, described by its card, with its figures as metrics."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from search.exporters.flow import open_bundle
from tests.forked import ran

Call = Callable[..., "subprocess.CompletedProcess[str]"]
Sweep = Callable[..., str]


@pytest.mark.slow
def test_a_registered_policy_loads_back_with_the_same_outputs(
    bitfront: Call, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = sweep(tmp_path, name="one", task="own_task:make", weight='["int4:channel:mse"]', activation='["int8:tensor:ema"]', trials=1)
    monkeypatch.chdir(tmp_path)
    done = bitfront("export", "one", "--pick", "0", "--register", "small@best", "--out", "out", "--uri", uri)
    assert done.returncode == 0, done.stderr
    assert "models:/small@best" in done.stdout
    bundle = open_bundle(uri, "one", "0", None)
    inputs = next(iter(bundle.task.test))[0]
    np.save(tmp_path / "x.npy", inputs.numpy())
    script = (
        "import sys, json, numpy as np, mlflow\n"
        "mlflow.set_tracking_uri(sys.argv[1]); model = mlflow.pyfunc.load_model('models:/small@best')\n"
        "np.save('y.npy', model.predict({'input': np.load('x.npy')})['output'])\n"
        "from mlflow.artifacts import download_artifacts as get\n"
        "policy = json.load(open(get('models:/small/1') + '/extra_files/policy.json'))\n"
        "example = model.input_example\n"
        "print(json.dumps([policy, str(model.metadata.signature), model.metadata.metadata, list(example)]))"
    )
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    fresh = ran(uri, script=script, cwd=tmp_path, env=environment)
    assert fresh.returncode == 0, fresh.stderr
    policy, signature, metadata, example = json.loads(fresh.stdout.splitlines()[-1])
    assert policy["layers"] == bundle.policy.to_json()["layers"]
    assert "(-1, 12)" in signature
    assert metadata["policy"] == bundle.policy.id
    assert example == ["input"]
    outputs, wanted = torch.from_numpy(np.load(tmp_path / "y.npy")), bundle.network.simulation(inputs)
    assert float((outputs.argmax(1) == wanted.argmax(1)).float().mean()) >= 0.99
    assert float((outputs - wanted).abs().max()) <= 0.1 * float(wanted.abs().max())
    client = MlflowClient(uri)
    version = client.get_model_version_by_alias("small", "best")
    assert version.description == (tmp_path / "out" / "README.md").read_text()[:5000]
    metrics = client.get_run(version.run_id).data.metrics
    assert metrics["accuracy_test_percent"] == pytest.approx(100 * bundle.metrics["test"]["accuracy"])
    assert metrics["size_KiB"] == pytest.approx(bundle.trial.result.cost["weight_bytes"] / 1024)
