"""Networks of every sort: evaluated, swept, counted, packed, and exported or refused in one sentence."""

import warnings
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

import bitfront
from bitfront.results import Sweep
from quant_core.export.graph import quantized_graph
from quant_core.export.packed_file import load_packed
from quant_core.network.coverage import coverage
from quant_core.network.forward import forward
from quant_core.network.outputs import with_output
from quant_core.network.parameters import state_name, weight_of
from quant_core.network.reference import reference_network
from quant_core.network.trace import trace
from quant_core.spec.policy import parse_layer_policy
from quant_core.spec.size import weight_bytes
from quant_core.util.errors import BitfrontError
from quant_core.util.registry import resolve
from search.exporters import EXPORTERS, Bundle, Exporter, onnx_qdq, openvino, safetensors
from search.exporters.flow import bundle_of
from spaces.rules import uniform_policy
from tests.zoo.many_cases import Case, batches, randomized, stored_bytes
from tests.zoo.many_further import FURTHER
from tests.zoo.many_others import OTHERS
from tests.zoo.many_sequences import SEQUENCES
from tests.zoo.many_transformers import TRANSFORMERS
from tests.zoo.many_vision import VISION

CASES: dict[str, Case] = {**VISION, **SEQUENCES, **OTHERS, **FURTHER, **TRANSFORMERS}
EVERY_NETWORK = pytest.mark.parametrize("name", CASES)
pytestmark = pytest.mark.filterwarnings("ignore")


@cache
def made(name: str) -> tuple[nn.Module, Any]:
    """Return a network in eval mode and its examples."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomized(CASES[name].model()), CASES[name].inputs()


@cache
def task(name: str) -> bitfront.Task:
    """Return the task of agreeing with the float network."""
    model, inputs = made(name)
    case, parts = CASES[name], batches(inputs)
    named = with_output(model, case.output)
    with torch.no_grad():
        split = [(part, forward(named, part)) for part in parts]
    metrics = ("kld", "flips") if case.classes else ("mae",)
    axis = 1 if case.classes and split[0][1].dim() == 4 else None
    data = {"train": split, "calib": split, "valid": split, "test": split}
    return bitfront.Task(model, **data, metrics=metrics, output=case.output, loss=nn.functional.mse_loss, class_axis=axis)


@cache
def swept(name: str) -> Sweep:
    """Return a sweep of 6 policies of 4 and 8 bits."""
    choices: dict[str, Any] = {"weight": ["int4:channel", "int8:channel"], "activation": "int8:tensor"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bitfront.sweep(task(name), **choices, device="counts", searcher="random", trials=6, record=None, log="none", threads=0)


@cache
def bundle(name: str) -> Bundle:
    """Return the trial of a sweep that is the most accurate."""
    sweep = swept(name)
    best = min(sweep.record.trials, key=lambda trial: trial.result.metrics["error"])
    with sweep._opened() as context, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bundle_of(sweep.record, best, context)


def test_there_are_enough() -> None:
    assert len(CASES) >= 80


@EVERY_NETWORK
def test_a_policy_is_evaluated(name: str) -> None:
    figures = bitfront.evaluate(task(name), "weight=int8:channel:mse,activation=int8:tensor:mse", threads=0)
    judged = "kld" if CASES[name].classes else "mae"
    assert figures[f"{judged}_float_test"] == 0
    assert 0 < figures[f"{judged}_test"] < 0.1


@EVERY_NETWORK
def test_a_sweep_of_six_trials(name: str) -> None:
    trials = swept(name).record.trials
    assert len(trials) >= 4
    assert all(trial.result.ok for trial in trials), [trial.result.reason for trial in trials]


@EVERY_NETWORK
def test_sizes_are_those_of_an_independent_count(name: str) -> None:
    model, inputs = made(name)
    parts = batches(inputs)
    model = reference_network(model, quiet=True)
    layers = trace(model, parts[0], parts)
    policy = uniform_policy(layers, parse_layer_policy("weight=int4:tensor"))
    part = coverage(model, layers, [layer.name for layer in layers if layer.calls])
    total, quantized = stored_bytes(model, 4, CASES[name].left)
    floats = sum((8.0 if parameter.is_complex() else 4.0) * parameter.numel() for parameter in model.parameters())
    assert part.total_bytes == floats
    assert weight_bytes(layers, policy) + part.uncounted_bytes == pytest.approx(total, rel=1e-9)
    assert floats - part.covered_bytes == pytest.approx(total - quantized, rel=1e-9)


@EVERY_NETWORK
def test_the_packed_file_is_read_back(name: str, tmp_path: Path) -> None:
    checks = safetensors.export(bundle(name), tmp_path).checks
    network = bundle(name).network
    read = load_packed(tmp_path / "model.safetensors")
    for stored in (stored for stored in network.stored if not stored.layer.tied_to):
        tensor = read.get(state_name(network.base, stored.layer.name))
        assert tensor is not None
        assert torch.equal(tensor, weight_of(network.plain, stored.layer.name))
    assert float(checks["modelled_weight_bytes"]) <= 1.1 * float(checks["file_bytes"])


SLOW = tuple(name for name in TRANSFORMERS if name not in ("gpt2", "llama", "llama, bfloat16", "mixtral", "t5", "vit", "yolos", "clip"))
"""Networks that take more than a second to export."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES])
def test_onnx_agrees_or_refuses_in_one_sentence(name: str, tmp_path: Path) -> None:
    reason = ""
    try:
        exported = onnx_qdq.export(bundle(name), tmp_path)
    except BitfrontError as error:
        reason = str(error)
    if CASES[name].onnx:
        assert not reason
        assert exported.files
    else:
        assert 20 < len(reason) < 400, reason


OPENVINO_REFUSES = ("lstm tagger, packed",)
"""Networks that onnxruntime runs and OpenVINO does not: packed sequences in both directions."""
OPENVINO_MAY_REFUSE = ("deberta v2",)
"""Its int8 kernels do not take sizes that a network computes as it runs; whether float32 stands in for them, processors decide."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES])
def test_openvino_agrees_or_refuses_in_one_sentence(name: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    reason = ""
    try:
        exported = openvino.export(bundle(name), tmp_path)
    except BitfrontError as error:
        reason = str(error)
    if CASES[name].onnx and name not in (*OPENVINO_REFUSES, *OPENVINO_MAY_REFUSE):
        assert not reason
        assert exported.files
    elif not CASES[name].onnx or name in OPENVINO_REFUSES:
        assert 20 < len(reason) < 400, reason


@pytest.mark.parametrize("form", ["c-array", "torchao", "vllm", "gguf", "compressed-tensors"])
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES])
def test_other_formats_agree_or_refuse_in_one_sentence(name: str, form: str, tmp_path: Path) -> None:
    reason, files = "", tuple[str, ...]()
    try:
        files = cast(Exporter, resolve(EXPORTERS, "export format", form))(bundle(name), tmp_path).files
    except BitfrontError as error:
        reason = str(error)
    assert files or 20 < len(reason) < 420, reason


def test_attention_in_float16_gives_a_valid_graph() -> None:
    assert quantized_graph(bundle("llama, float16").network).payload > 0
