"""Every network of the zoo: all-float equals float, int8 agrees with float, every exporter agrees or refuses in one sentence."""

import copy
import warnings
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import bitfront
from bitfront.results import Sweep
from quant_core.network.forward import forward
from quant_core.network.reference import NetworkModeWarning
from quant_core.util.errors import BitfrontError, LeftInFloatWarning
from quant_core.util.registry import resolve
from quant_core.util.rng import repeatable
from search.exporters import EXPORTERS, Bundle, Exporter
from search.exporters.flow import bundle_of
from tests.zoo.zoo_networks import NETWORKS, SLOW, made

PART = 64
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-3}
EVERY_NETWORK = pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NETWORKS])
FAULTS: dict[tuple[str, str], str] = {}
"""(network, format) -> how the exporter still fails."""


def float_outputs(name: str) -> torch.Tensor:
    """Return the outputs of the network as its owner has it, in eval mode."""
    model, inputs = made(name)
    with torch.no_grad(), repeatable():
        return forward(copy.deepcopy(model).eval(), inputs)


@cache
def task(name: str) -> bitfront.Task:
    """Return the task of agreeing with the float network, on the half of the examples of which it is surest."""
    model, inputs = made(name)
    outputs = float_outputs(name)
    best = outputs.float().topk(2, dim=1).values
    chosen = (best[:, 0] - best[:, 1]).argsort(descending=True)[: len(outputs) // 2]
    inputs, targets = inputs[chosen], outputs[chosen].argmax(dim=1)
    calib = [(inputs[:PART], targets[:PART])]
    split = [(inputs[at : at + PART], targets[at : at + PART]) for at in range(0, len(inputs), PART)]
    return bitfront.Task(model, train=calib, calib=calib, valid=split, test=split)


@cache
def swept(name: str) -> Sweep:
    """Return a sweep of the one policy of 8 bits everywhere."""
    choices: dict[str, Any] = {"weight": "int8:channel", "activation": "int8:tensor"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bitfront.sweep(task(name), **choices, device="counts", trials=1, record=None, log="none", threads=0)


@cache
def bundle(name: str) -> Bundle:
    sweep = swept(name)
    with sweep._opened() as context, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bundle_of(sweep.record, sweep.record.trials[0], context)


@EVERY_NETWORK
def test_an_all_float_policy_gives_the_float_network(name: str) -> None:
    model, inputs = made(name)
    expected = float_outputs(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetworkModeWarning)
        warnings.simplefilter("ignore", LeftInFloatWarning)
        network = bitfront.quantize(model, "weight=float,activation=float", inputs[:PART])
    with torch.no_grad(), repeatable():
        outputs = forward(network, inputs)
    largest = float(expected.float().abs().amax())
    assert outputs.dtype == expected.dtype
    assert float((outputs.float() - expected.float()).abs().amax()) <= TOLERANCES[expected.dtype] * max(largest, 1.0)


@EVERY_NETWORK
def test_eight_bits_agree_with_the_float_network(name: str) -> None:
    (trial,) = swept(name).record.trials
    assert trial.result.ok, trial.result.reason
    assert swept(name).record.baseline["accuracy_valid"] - trial.result.metrics["accuracy"] <= 0.005


@pytest.mark.parametrize("form", EXPORTERS)
@EVERY_NETWORK
def test_an_exporter_agrees_or_refuses_in_one_sentence(name: str, form: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if (name, form) in FAULTS:
        request.applymarker(pytest.mark.xfail(strict=True, reason=FAULTS[name, form]))
    exporter = cast(Exporter, resolve(EXPORTERS, "export format", form))
    reason = ""
    files: tuple[str, ...] = ()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            files = exporter(bundle(name), tmp_path).files
    except BitfrontError as error:
        reason = str(error)
    assert all((tmp_path / file).stat().st_size for file in files)
    assert files or 20 < len(reason) < 300, reason
