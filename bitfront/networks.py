"""One network and one policy, without a search: `quantize` it, or `evaluate` it on a task."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bitfront.isolation import unchanged
from bitfront.measured import MeasuredPolicy
from bitfront.sources import TaskSource, open_task
from quant_core.export.standalone import standalone
from quant_core.network.reference import reference_network
from quant_core.network.sites import named_parameters
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.layer import Layer
from quant_core.spec.policy import NONE, LayerPolicy, Policy, parse_layer_policy
from quant_core.spec.size import average_bits, float_bytes, weight_bytes
from quant_core.transforms.apply import transformed, untied
from quant_core.util.devices import CPU, device_of
from quant_core.util.errors import InputError
from search.config.evaluation import EvaluateSection
from search.evaluation.evaluator import Evaluator
from search.evaluation.kv_cache import kv_figures
from search.evaluation.measure import traced_inputs
from spaces.rules import uniform_policy

if TYPE_CHECKING:
    from search.sweeps.context import SweepContext

PolicySource = Policy | MeasuredPolicy | LayerPolicy | str


def quantize(model: nn.Module, policy: PolicySource, calibration: Any) -> nn.Module:
    """Return a copy of `model` quantized by one policy, after training (no search, no training).

    Args:
        model: trained, float; it is not touched.
        policy: a `Policy`, what `Sweep.best` or `evaluate` returned, or the same for every layer as a `LayerPolicy` or a text.
        calibration: what sets the ranges of activations: a tensor of inputs, or an iterable of batches (a list, a DataLoader). A batch is
            the model's input, or `(inputs, targets)` as in a `Task`, of which the targets are not read. Without data: `synthetic_inputs`.

    Returns:
        The quantized network, in eval mode. It computes in float32 with the quantized values ("fake quantization"), can be copied and
        pickled, and needs nothing else.

    Raises:
        InputError: the policy cannot be read or is for other layers, or there is no calibration batch.

    >>> import torch, bitfront
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))
    >>> q = bitfront.quantize(model, "weight=int4:channel:mse,activation=int8:tensor:mse", torch.randn(256, 16))
    >>> len(set(q[0].weight[0].tolist())) <= 16
    True
    """
    with unchanged():
        batches = _batches(calibration)
        network = reference_network(model, quiet=True)
        layers = trace(network, batches[0], batches, _parameters(network, policy))
        chosen = as_policy(policy, layers)
        layers = list(untied(layers, network, (chosen.transform,), batches))
        network = transformed(network, chosen.transform, batches).model
        engine = PostTraining(network, layers, batches, batches[0])
        return standalone(engine, network, layers, chosen, batches[0])


def evaluate(
    task: TaskSource,
    policy: PolicySource,
    *,
    calib: int = 0,
    valid: int = 0,
    test: int = 0,
    threads: int = 1,
    task_options: Mapping[str, object] | None = None,
) -> MeasuredPolicy:
    """Return the metrics of one policy, and those of the float network, on the validation and the test split; nothing is trained.

    Args:
        task: a `Task`, a function that returns one, or a name: of `bitfront list tasks`, or "package.module:function".
        policy: as `quantize` takes it.
        calib, valid, test: how many examples of each split are used; 0: all.
        threads: torch threads; 0: torch's own choice.
        task_options: keyword arguments of the task's function.

    Raises:
        InputError: the task or the policy cannot be read, or they do not fit each other.
        BitfrontError: the network, the score or the loss fails.

    >>> import bitfront
    >>> measured = bitfront.evaluate("digits", "weight=int8:channel:mse,activation=int8:tensor:mse")
    >>> abs(measured["accuracy_valid"] - measured["accuracy_float_valid"]) < 0.02
    True
    >>> measured["weight_bytes"] < measured["float_weight_bytes"]
    True
    """
    with unchanged():
        if threads:
            torch.set_num_threads(threads)
        opened = open_task(task, task_options or {})
        inputs = traced_inputs(opened)
        layers = trace(opened.model, inputs[0], inputs, _parameters(opened.model, policy))
        chosen = as_policy(policy, layers)
        layers = list(untied(layers, opened.model, (chosen.transform,), inputs))
        section = EvaluateSection(calib=calib, valid=valid, test=test)
        evaluator = Evaluator(opened, layers, section, transforms=(chosen.transform,))
        metrics: dict[str, float] = {}
        for split in ("valid", "test"):
            measured, quantized = evaluator.float_metrics(split), evaluator.metrics(chosen, split)
            metrics |= {f"{name}_float_{split}": measured[name] for name in opened.figure_names if name != "loss"}
            metrics |= {f"{name}_{split}": quantized[name] for name in opened.figure_names}
        sizes = {"weight_bytes": weight_bytes(layers, chosen), "float_weight_bytes": float_bytes(layers)}
        sizes |= kv_figures(evaluator.engines.engine(chosen), chosen)
        return MeasuredPolicy(chosen, metrics | average_bits(layers, chosen) | sizes)


def applied(context: "SweepContext", policy: Policy, fidelity: str = "ptq", after: Sequence[Policy] = ()) -> nn.Module:
    """Return the network of a sweep quantized by a policy, at the fidelity of its trial; it shares nothing with the sweep."""
    setup, evaluator = context.setup, context.evaluator
    if fidelity in ("reconstruct", "qat"):
        return evaluator.quantized(policy, fidelity, after).simulation.to(device_of(setup.task.model) or CPU)
    chosen = as_policy(policy, setup.layers)
    engine = evaluator.engines.engine(chosen)
    network = setup.task.model if chosen.transform == NONE else evaluator.engines.network(chosen)
    return standalone(engine, network, setup.layers, chosen, evaluator.calib[0])


def as_policy(source: PolicySource, layers: Sequence[Layer]) -> Policy:
    """Return the policy that `source` is, or gives for every layer, in network order.

    Raises:
        InputError: it cannot be read, or is for another network.
    """
    policy = source.policy if isinstance(source, MeasuredPolicy) else source
    if isinstance(policy, str):
        policy = parse_layer_policy(policy)
    if isinstance(policy, LayerPolicy):
        return uniform_policy(layers, policy)
    names = [layer.name for layer in layers]
    if sorted(policy) != sorted(names):
        missing, extra = [n for n in names if n not in policy], [n for n in policy if n not in names]
        raise InputError(f"the policy is for another network: it lacks {missing or 'nothing'} and has {extra or 'nothing'} beside it.")
    return policy.with_layers({name: policy[name] for name in names})


def _parameters(model: nn.Module, policy: PolicySource) -> tuple[str, ...]:
    """Return the parameters that a policy names as layers."""
    source = policy.policy if isinstance(policy, MeasuredPolicy) else policy
    return named_parameters(model, source) if isinstance(source, Policy) else ()


def _batches(calibration: Any) -> list[Any]:
    """Return the model inputs of a calibration set.

    Raises:
        InputError: there is no batch.
    """
    if isinstance(calibration, Tensor | Mapping):
        return [calibration]
    if not isinstance(calibration, Iterable):
        raise InputError(f"a {type(calibration).__name__} given as calibration; give a tensor of inputs, or a list of batches.")
    batches = [batch[0] if isinstance(batch, tuple | list) and len(batch) == 2 else batch for batch in calibration]
    if not batches:
        raise InputError("no calibration batch given; at least one is needed to set the ranges of activations.")
    return batches
