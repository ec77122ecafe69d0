"""Networks with other weights than those of Linear and Conv layers: a sweep of 6 trials, packed and read back, ONNX or one sentence."""

import json
import warnings
from functools import cache
from pathlib import Path
from typing import cast

import pytest
import torch

import bitfront
from bitfront.results import Sweep
from quant_core.export.inspect import describe
from quant_core.export.packed_file import load_packed
from quant_core.network.forward import forward
from quant_core.network.parameters import state_name, weight_of
from quant_core.network.trace import trace
from quant_core.spec.policy import parse_layer_policy
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.registry import resolve
from search.exporters import EXPORTERS, Bundle, Exporter, onnx_qdq, safetensors
from search.exporters.flow import bundle_of
from search.exporters.support import check_formats
from tests.zoo.weight_networks import MAKERS, SLOW, made

EVERY_NETWORK = pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in MAKERS])
REFUSED = ("lstm, projected", "bilinear", "mixtral", "qwen3 moe")
"""Networks with an operator that ONNX does not have: projections, bilinear products, grouped products of experts."""


@cache
def swept(name: str) -> Sweep:
    """Return a sweep of 6 policies of 4 and 8 bits on the task of agreeing with the float network."""
    model, inputs = made(name)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = inputs, forward(model, inputs).argmax(dim=1)
        task = bitfront.Task(model, train=[batch], calib=[batch], valid=[batch], test=[batch])
        choices = {"weight": ["int4:channel", "int8:channel"], "activation": "int8:tensor"}
        return bitfront.sweep(task, **choices, device="counts", searcher="random", trials=6, record=None, log="none", threads=0)


@cache
def bundle(name: str) -> Bundle:
    """Return the trial of a sweep that is the most accurate."""
    sweep = swept(name)
    best = max(sweep.record.trials, key=lambda trial: trial.result.metrics["accuracy"])
    with sweep._opened() as context, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bundle_of(sweep.record, best, context)


@EVERY_NETWORK
def test_a_sweep_of_six_trials_and_the_file_that_is_read_back(name: str, tmp_path: Path) -> None:
    trials = swept(name).record.trials
    assert len(trials) >= (4 if name == "bag" else 6)  # all that there are
    assert all(trial.result.ok for trial in trials), [trial.result.reason for trial in trials]
    assert max(trial.result.metrics["accuracy"] for trial in trials) >= 0.8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checks = safetensors.export(bundle(name), tmp_path).checks
    network = bundle(name).network
    read = load_packed(tmp_path / "model.safetensors")
    for stored in network.stored:
        tensor = read.get(state_name(network.base, stored.layer.name))
        assert tensor is not None
        assert torch.equal(tensor, weight_of(network.plain, stored.layer.name))
    packed = {row.name for row in describe(tmp_path / "model.safetensors") if row.spec.startswith("int")}
    assert packed == {state_name(network.base, stored.layer.name) for stored in network.stored if stored.encoded is not None}
    assert float(checks["modelled_weight_bytes"]) <= 1.1 * float(checks["file_bytes"])
    weight_only = {stored.layer.name for stored in network.stored if stored.layer.weight_only}
    assert weight_only.isdisjoint(json.loads((tmp_path / "activations.json").read_text())["inputs"])


@EVERY_NETWORK
def test_onnx_agrees_or_refuses_in_one_sentence(name: str, tmp_path: Path) -> None:
    reason = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = onnx_qdq.export(bundle(name), tmp_path)
    except BitfrontError as error:
        reason = str(error)
    if name in REFUSED:
        assert 20 < len(reason) < 400, reason
    else:
        assert not reason
        assert exported.files


READ_BY_OTHERS = {"lstm": "body.weight_ih_l0", "attention": "attention.in_proj_weight", "own weights": "experts.up"}
"""Network -> a weight of it that no module of its own holds."""


@pytest.mark.filterwarnings("ignore::quant_core.util.errors.LeftInFloatWarning")
@pytest.mark.parametrize("form", ["c-array", "torchao", "vllm"])
@pytest.mark.parametrize("name", READ_BY_OTHERS)
def test_formats_of_modules_refuse_a_weight_that_another_module_reads(name: str, form: str) -> None:
    model, inputs = made(name)
    layer = next(layer for layer in trace(model, inputs, [inputs]) if layer.name == READ_BY_OTHERS[name])
    policies = [parse_layer_policy("weight=int8:channel,activation=float"), parse_layer_policy("weight=int8:channel,activation=int8:token")]
    with pytest.raises(InputError) as refusal:
        check_formats([form], model, inputs, [layer], {layer.name: policies})
    text = str(refusal.value)
    assert text.startswith(f"format {form} holds no choice of layer {layer.name!r}: ")
    assert "another module reads" in text
    assert len(text) < 400
    assert text.count(". ") == 1  # the reason, and what to do


@pytest.mark.parametrize("form", ["c-array", "torchao", "vllm"])
@pytest.mark.parametrize("name", READ_BY_OTHERS)
def test_their_exporters_refuse_it_in_one_sentence(name: str, form: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        cast(Exporter, resolve(EXPORTERS, "export format", form))(bundle(name), tmp_path)
    assert 20 < len(str(refusal.value)) < 400
    assert not list(tmp_path.iterdir())
