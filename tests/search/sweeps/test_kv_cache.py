"""A sweep whose policies choose the format of keys and values, with its bytes per token as an objective."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitfront
from quant_core.export.reading import load_quantized
from search.config.experiment import Experiment
from search.evaluation.evaluator import Evaluator
from tests.quant_core.network.attention_cases import Network, X

KV = ["float", "int8:token", "int2:token"]
SPACE: dict[str, Any] = {"weight": ["int4:channel:mse", "int8:channel:mse"], "activation": ["float"]}
OPTIONS: dict[str, Any] = {"space": {"kv": KV}, "device": {"objectives": ["loss", "kv_bytes_per_token"]}}
BYTES = {"float": 256.0, "int8:token": 96.0, "int2:token": 48.0}  # two calls, keys and values of two heads of 8


class Classifier(nn.Module):
    """[N, 6, 32] -> [N, 3] by attention over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Network("fused grouped")
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(x).mean(dim=1))
        return y


def task() -> bitfront.Task:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = Classifier().eval(), torch.randn(90, 6, 32)
    y = model(x).argmax(dim=1)
    calib, valid, test = ((x[a : a + 30], y[a : a + 30]) for a in (0, 30, 60))
    return bitfront.Task(model, train=[calib], calib=[calib], valid=[valid], test=[test])


def swept(given: bitfront.Task, **changes: Any) -> bitfront.Sweep:
    usual: dict[str, Any] = {"device": "generic-cpu", "trials": 7, "record": None, "log": "none", "searcher": "random"}
    return bitfront.sweep(given, **(SPACE | usual | {"options": OPTIONS} | changes))


@pytest.mark.filterwarnings("ignore:network = 'rotate'")
def test_every_format_is_tried_under_every_transform_and_its_bytes_are_a_cost() -> None:
    space = {"weight": ["int8:channel:mse"], "options": OPTIONS | {"space": {"kv": KV, "network": ["none", "rotate"]}}}
    sweep = swept(task(), **space)
    trials = sweep.record.trials
    assert {(trial.policy.transform, str(trial.policy.kv)) for trial in trials} == {(t, kv) for t in ("none", "rotate") for kv in KV}
    for trial in trials:
        assert trial.result.ok
        assert trial.result.cost["kv_bytes_per_token"] == BYTES[str(trial.policy.kv)]
    assert len({trial.result.metrics["loss"] for trial in trials}) == 6
    assert sweep.record.baseline["kv_bytes_per_token"] == BYTES["float"]
    assert "KV cache per token [B]" in sweep.front().columns


def test_a_budget_below_the_smallest_cache_is_refused() -> None:
    with pytest.raises(bitfront.InputError, match=r"the smallest in this space is 48\."):
        swept(task(), budget={"kv_bytes_per_token": 47})


def test_a_stopped_sweep_goes_on_as_if_it_had_not_been(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = swept(task())
    call, calls = Evaluator.__call__, []

    def interrupted(self: Evaluator, *args: Any, **keywords: Any) -> Any:
        calls.append(args)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return call(self, *args, **keywords)

    monkeypatch.setattr(Evaluator, "__call__", interrupted)
    stopped = swept(task(), record=store_uri, name="cached")
    assert len(stopped.record.trials) == 5
    again = bitfront.load("cached", uri=store_uri, task=task()).resume(log="none")
    assert [trial.policy for trial in again.record.trials] == [trial.policy for trial in whole.record.trials]
    assert [trial.result.metrics for trial in again.record.trials] == [trial.result.metrics for trial in whole.record.trials]


def _in_float(folder: Path) -> Path:
    path = folder / "activations.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kv": "float"}))
    return folder


def test_files_of_a_policy_hold_the_cache_and_others_refuse_it(tmp_path: Path) -> None:
    sweep = swept(task(), trials=2, options={"space": {"kv": ["int8:token"]}})
    written = sweep.export("0", tmp_path / "out", formats=["policy", "safetensors", "card"])
    assert set(written) == {"policy", "safetensors", "card"}
    assert '"kv": "int8:token"' in (tmp_path / "out" / "policy.json").read_text()
    assert "KV cache: `int8:token`" in (tmp_path / "out" / "README.md").read_text()
    read = load_quantized(tmp_path / "out", task().model, task().calib[0][0])
    assert torch.equal(read(X), sweep.model("0")(X))
    assert not torch.equal(read(X), load_quantized(_in_float(tmp_path / "out"), task().model, X)(X))
    for name in ("onnx", "c-array"):
        with pytest.raises(bitfront.InputError, match=rf"formats {name} hold no quantized KV cache, and kv = int8:token given"):
            sweep.export("0", tmp_path / name, formats=[name])
        options = {"space": {"kv": ["int8:token"]}, "export": {"formats": [name]}}
        with pytest.raises(bitfront.InputError, match="hold no quantized KV cache"):
            swept(task(), options=options)


@pytest.mark.parametrize(
    ("space", "evaluate", "message"),
    [
        ({"kv": "int8:tensor"}, {}, "kv int8:tensor: a row of a KV cache is quantized by itself"),
        ({"kv": "auto"}, {}, '"auto" given; name formats, as in kv = '),
        (
            {"kv": KV},
            {"ladder": ["reconstruct", "qat"]},
            "and the fidelity qat and reconstruct given; keys and values are simulated",
        ),
    ],
)
def test_what_a_cache_cannot_be_is_refused_with_the_experiment(space: dict[str, Any], evaluate: dict[str, Any], message: str) -> None:
    sections = {"task": {"name": "digits"}, "device": {"name": "counts"}, "space": SPACE | space, "evaluate": evaluate}
    with pytest.raises(ValueError, match=message):
        Experiment.model_validate(sections)
