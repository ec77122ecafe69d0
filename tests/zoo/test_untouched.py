"""No public operation changes the user's network: weights, buffers, modes, hooks, attributes are as before, bit for bit."""

import contextlib
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn

import bitfront
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.util.errors import BitfrontError
from quant_core.util.registry import resolve
from search.config.evaluation import EvaluateSection
from search.evaluation.evaluator import Evaluator
from search.evaluation.measure import first_inputs
from search.exporters import EXPORTERS, Exporter
from search.exporters.flow import bundle_of
from tests.zoo.zoo_networks import made

NETWORKS = ("train mode", "max_norm", "hooked", "tied by storage", "tied by parameter", "dropout in eval", "lora", "bfloat16")
TEXT = "weight=int4:channel:mse,activation=int8:tensor:mse"
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks", "_parametrizations")


def fingerprint(model: nn.Module) -> str:
    """Return a hash of everything that a network holds: tensors and where they lie, modes, hooks, attributes of every module."""
    digest = hashlib.sha256()
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        stored = tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
        digest.update(
            f"{name} {id(tensor)} {tensor.data_ptr()} {tensor.dtype} {tensor.requires_grad} {tensor.grad is None}".encode() + stored
        )
    for name, module in model.named_modules(remove_duplicate=False):
        hooks = [[id(hook) for hook in getattr(module, kind, {}).values()] for kind in HOOKS]
        plain = {key: value for key, value in vars(module).items() if isinstance(value, int | float | str | None)}
        digest.update(f"{name} {type(module)} {id(module)} {module.training} {hooks} {sorted(vars(module))} {plain}".encode())
    return digest.hexdigest()


def task_of(name: str) -> bitfront.Task:
    model, inputs = made(name)
    inputs = inputs[:48]
    targets = torch.arange(48) % 4
    split = [(inputs[:24], targets[:24]), (inputs[24:], targets[24:])]
    return bitfront.Task(model, train=split, calib=split, valid=split, test=split)


def evaluated(fidelity: str) -> Callable[[bitfront.Task], object]:
    def run(task: bitfront.Task) -> None:
        layers = trace(task.model, first_inputs(task))
        evaluator = Evaluator(task, layers, EvaluateSection.model_validate({"qat": {"epochs": 1}}))
        evaluator.float_metrics("test")
        result = evaluator(Policy({layer.name: parse_layer_policy(TEXT) for layer in layers}), fidelity)
        assert result.ok, result.reason

    return run


def engine(task: bitfront.Task) -> object:
    inputs = first_inputs(task)
    layers = trace(task.model, inputs)
    made = PostTraining(task.model, layers, [inputs], inputs)
    return made.apply(Policy({layer.name: parse_layer_policy(TEXT) for layer in layers}))


def swept(task: bitfront.Task, searcher: str = "greedy", method: str = "forward") -> bitfront.Sweep:
    choices = {"weight": ["int4:channel:mse", "int8:channel:mse"], "activation": "int8:tensor:mse"}
    options = {"evaluate": {"sensitivity": method}}
    return bitfront.sweep(
        task, **choices, device="counts", searcher=searcher, trials=3, record=None, log="none", threads=0, options=options
    )  # type: ignore[arg-type]


OPERATIONS: dict[str, Callable[[bitfront.Task], object]] = {
    "trace": lambda task: trace(task.model, first_inputs(task)),
    "engine": engine,
    "ptq": evaluated("ptq"),
    "adaround": evaluated("adaround"),
    "qat": evaluated("qat"),
    "quantize": lambda task: bitfront.quantize(task.model, TEXT, first_inputs(task)),
    "evaluate": lambda task: bitfront.evaluate(task, TEXT, threads=0),
    "sweep": swept,
    "fisher": lambda task: swept(task, method="fisher"),
    "model": lambda task: swept(task, "random").model(0),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_an_operation_leaves_the_network_as_it_was(name: str, operation: str) -> None:
    task = task_of(name)
    before = fingerprint(task.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        OPERATIONS[operation](task)
    assert fingerprint(task.model) == before


@pytest.mark.parametrize("name", NETWORKS)
def test_exporters_leave_the_network_as_it_was(name: str, tmp_path: Path) -> None:
    task = task_of(name)
    before = fingerprint(task.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sweep = swept(task, "random")
        with sweep._opened() as context:
            bundle = bundle_of(sweep.record, sweep.record.trials[0], context)
            for form in EXPORTERS:
                exporter = cast(Exporter, resolve(EXPORTERS, "export format", form))
                with contextlib.suppress(BitfrontError):
                    exporter(bundle, tmp_path)
                assert fingerprint(task.model) == before, form


def test_the_fingerprint_sees_what_changes() -> None:
    model, _ = made("hooked")
    prints = {fingerprint(model)}
    model[0].register_forward_hook(lambda *_: None)
    prints.add(fingerprint(model))
    model[1].train()
    prints.add(fingerprint(model))
    model[1].running_mean += 1
    prints.add(fingerprint(model))
    model[0].forward = model[0].forward
    prints.add(fingerprint(model))
    assert len(prints) == 5
