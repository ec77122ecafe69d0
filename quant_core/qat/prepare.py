"""`prepare` a network for quantization-aware training, and `finalize` it afterwards: torch parametrizations and input hooks."""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from quant_core.codecs import Bounds
from quant_core.codecs.quantize import fake_quantize
from quant_core.network.parameters import holder, layer_name, to_matrix
from quant_core.network.statistics import TensorStatistics
from quant_core.network.trace import is_transformers_conv1d, quantizable
from quant_core.qat import QAT_METHODS, QatError
from quant_core.qat.input import INPUT, attach
from quant_core.qat.method import InputQuantizer, Method, WeightQuantizer
from quant_core.qat.sites import StackWeight, attach_site, coded, in_module, is_site, parametrize_site
from quant_core.qat.ste import METHOD as STE
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy, Policy, require_float_kv
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import InputError
from quant_core.util.registry import resolve
from quant_core.util.text import listed

_ORIGINAL = re.compile(r"parametrizations\.([^.]+)\.original$")
_OF_INPUT = re.compile(rf"(^|\.){INPUT}\w*\.")
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A trained weight and how it is stored: fake-quantizing, encoding or packing `source` as below gives `tensor` bit for bit."""

    tensor: Tensor
    source: Tensor
    spec: QuantSpec
    channel_axis: int
    bounds: Bounds | None


def method_named(name: str) -> Method:
    """Return a QAT method by its name or `package.module:attribute`.

    Raises:
        InputError: unknown, or it is no `Method`.
    """
    method = resolve(QAT_METHODS, "QAT method", name)
    if not isinstance(method, Method):
        raise InputError(f"QAT method {name!r} is a {type(method).__name__}; a quant_core.qat.method.Method is needed.")
    return method


def prepare(
    model: nn.Module,
    policy: Policy,
    method: str = "lsq",
    *,
    statistics: Mapping[str, TensorStatistics] | None = None,
    layers: Iterable[Layer] = (),
) -> nn.Module:
    """Return a copy of `model` that computes with quantized weights and inputs while its float weights stay its parameters.

    Modules and the names of their weights stay: the weight of a layer becomes a `torch.nn.utils.parametrize` parametrization, its input
    passes a module `input_quantizer`. Tied weights share one quantizer. Tensors that `method` does not cover are trained by `ste`.
    Embeddings keep their input, and with `statistics` given, layers that calibration never reached stay in float.

    Args:
        model: float; it is not touched.
        policy: a `LayerPolicy` for every quantizable layer.
        method: a key of `QAT_METHODS` or `package.module:attribute`.
        statistics: of the layers' inputs, from `quant_core.network.statistics.collect`; needed where an input has static integers.
        layers: of the network; needed where the policy has layers that are parameters of other modules (`lstm.weight_ih_l0`).

    Raises:
        InputError: the policy is for other layers; tied weights have different specs; the method covers nothing of the policy.
    """
    require_float_kv(policy)
    chosen = method_named(method)
    model = copy.deepcopy(model)
    sites = {layer.name: layer for layer in layers if layer.name in policy and is_site(model, layer)}
    modules = {name: module for name, module in quantizable(model).items() if name not in sites}
    in_network = (*modules, *sites)
    for names, others, where in ((policy, in_network, "the network"), (in_network, policy, "the policy")):
        for name in names:
            if name not in others:
                raise InputError(f"the policy is for other layers: {name!r} is not in {where}; layers: {listed(in_network)}.")
    reached = {
        name: module for name, module in modules.items() if statistics is None or name in statistics or isinstance(module, nn.Embedding)
    }
    inputs = statistics or {}
    covered = [_quantize_input(name, reached[name], policy[name].activation, chosen, inputs.get(name)) for name in reached]
    covered += _quantize_weights(reached, policy, chosen)
    covered += [part for layer in sites.values() for part in _quantize_site(model, layer, policy[layer.name], chosen, inputs)]
    if not any(covered):
        raise InputError(f"QAT method {method!r} ({chosen.about}) covers nothing of this policy; train it by 'ste'.")
    return model


def finalize(model: nn.Module) -> nn.Module:
    """Return a copy of a prepared network in eval mode that holds quantized weights only; its outputs are the same to the last bit.

    Raises:
        QatError: a weight is not exactly what its spec stores.
    """
    model = copy.deepcopy(model).eval()
    weights = quantized_weights(model)
    parameters: dict[int, nn.Parameter] = {}
    plain: dict[nn.Module, dict[str, nn.Parameter]] = {}
    for name, module, key, quantizer in _quantized(model):
        stored = weights[name]
        again = fake_quantize(stored.source, stored.spec, channel_axis=stored.channel_axis, bounds=stored.bounds)
        if not torch.equal(again, stored.tensor):
            raise QatError(f"layer {name!r}: its trained weight is not exactly what {stored.spec} stores.")
        tensor = in_module(quantizer, stored.tensor)
        plain.setdefault(module, {})[key] = parameters.setdefault(id(quantizer), nn.Parameter(tensor, requires_grad=False))
    for module, values in plain.items():
        _unparametrize(module, values)
    return model.requires_grad_(False)


def quantized_weights(model: nn.Module) -> dict[str, QuantizedWeight]:
    """Return layer name -> quantized weight, with the arguments of packing, of a prepared network in any mode."""
    weights = {}
    for name, module, key, quantizer in _quantized(model):
        before = quantizer.training
        quantizer.eval()
        with torch.no_grad():
            tensor = coded(quantizer, quantizer(original(module, key))).detach().clone()
            source, spec, bounds = quantizer.stored(original(module, key).detach())
        weights[name] = QuantizedWeight(tensor, source, spec, quantizer.channel_axis, bounds)
        quantizer.train(before)
    return weights


def constrain(model: nn.Module) -> None:
    """Bring master weights and learned values back into their domains; to be called after every step of the optimiser."""
    with torch.no_grad():
        for _, module, key, quantizer in _quantized(model):
            quantizer.constrain(original(module, key))
        for input_quantizer in input_quantizers(model).values():
            input_quantizer.constrain()


def input_quantizers(model: nn.Module) -> dict[str, InputQuantizer]:
    """Return layer name -> the quantizer of its input."""
    held = {
        layer_name(place, key.removeprefix(INPUT).lstrip("_") or "weight"): child
        for place, module in model.named_modules()
        for key, child in module.named_children()
        if key.startswith(INPUT)
    }
    return {name: quantizer for name, quantizer in held.items() if isinstance(quantizer, InputQuantizer)}


def float_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a prepared network under the names of the float network; training of another policy may start from it."""
    state = {}
    for key, tensor in model.state_dict().items():
        plain = _ORIGINAL.sub(r"\1", key)
        if "parametrizations." not in plain and not _OF_INPUT.search(plain):
            state[plain] = tensor
    return state


def original(module: nn.Module, key: str = "weight") -> Tensor:
    """Return the float master weight of a prepared layer."""
    parametrizations: Any = module.parametrizations
    weight: Tensor = parametrizations[key].original
    return weight


def weight_axis(module: nn.Module) -> int:
    """Return the axis of a layer's weight that runs over its output channels."""
    return 1 if isinstance(module, _TRANSPOSED) or is_transformers_conv1d(module) else 0


def _input_axis(module: Any) -> int:
    """Return the axis of a layer's input that it sums over."""
    return -1 - len(module.kernel_size) if isinstance(module, nn.modules.conv._ConvNd) else -1


def _unparametrize(module: nn.Module, weights: Mapping[str, nn.Parameter]) -> None:
    """Give a prepared module plain weights. (torch's remove_parametrizations would break every other copy: they share a class.)"""
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module._modules["parametrizations"]
    for key, weight in weights.items():
        setattr(module, key, weight)


def _quantized(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, WeightQuantizer]]:
    """Yield layer, module, name of the parameter and its quantizer."""
    for place, module in list(model.named_modules()):
        parametrizations: Any = module.parametrizations if parametrize.is_parametrized(module) else {}
        for key, parts in parametrizations.items():
            if isinstance(parts[0], WeightQuantizer):
                yield layer_name(place, key), module, key, parts[0]


def _quantize_input(name: str, module: nn.Module, spec: QuantSpec, method: Method, statistics: TensorStatistics | None) -> bool:
    """Put the quantizer of one layer's input in place; return whether the method covers it."""
    if spec.is_float or isinstance(module, nn.Embedding):
        return False
    quantizer = _input_quantizer(name, spec, method, statistics, _input_axis(module))
    attach(module, quantizer.to(module.get_parameter("weight").device))
    return method.covers_input(spec, statistics)


def _input_quantizer(name: str, spec: QuantSpec, method: Method, statistics: TensorStatistics | None, axis: int) -> InputQuantizer:
    try:
        return (method if method.covers_input(spec, statistics) else STE).input(spec, statistics, axis)
    except InputError as error:
        raise InputError(f"layer {name!r}: {error}") from None


def _quantize_site(
    model: nn.Module, layer: Layer, policy: LayerPolicy, method: Method, statistics: Mapping[str, TensorStatistics]
) -> list[bool]:
    """Quantize a weight that another module reads, and its input where it is reached; return whether the method covers them."""
    owner, key = holder(model, layer.name)
    covered = []
    if not policy.activation.is_float and layer.name in statistics:
        seen = statistics[layer.name]
        reader = _input_quantizer(layer.name, policy.activation, method, seen, -1)
        attach_site(owner, key, f"{INPUT}_{key}", reader.to(owner.get_parameter(key).device))
        covered.append(method.covers_input(policy.activation, seen))
    if not policy.weight.is_float:
        covers, weight = method.covers_weight(policy.weight), owner.get_parameter(key).detach()
        matrix = to_matrix(weight, layer.contraction_axis) if layer.stack_shape else weight
        quantizer = (method if covers else STE).weight(matrix, policy.weight, layer.channel_axis).to(weight.device).eval()
        parametrize_site(owner, key, StackWeight(quantizer, layer) if layer.stack_shape else quantizer)
        covered.append(covers)
    return covered


def _quantize_weights(modules: Mapping[str, nn.Module], policy: Policy, method: Method) -> list[bool]:
    """Parametrize every weight, tied weights by one quantizer; return per layer whether the method covers it."""
    owners: dict[int, tuple[str, LayerPolicy, WeightQuantizer]] = {}
    covered = []
    for name, module in modules.items():
        if parametrize.is_parametrized(module):
            raise InputError(f"layer {name!r} is parametrized already; remove that first (torch.nn.utils.parametrize).")
        spec, weight = policy[name].weight, module.get_parameter("weight")
        owner = owners.get(id(weight))
        if owner is not None and owner[1].weight != spec:
            raise InputError(f"layers {owner[0]!r} and {name!r} share one weight; {owner[1].weight} and {spec} given, give both the same.")
        if spec.is_float:
            continue
        covers = method.covers_weight(spec)
        if owner is None:
            quantizer = (method if covers else STE).weight(weight.detach(), spec, weight_axis(module)).to(weight.device)
            owner = owners[id(weight)] = (name, policy[name], quantizer.eval())
        parametrize.register_parametrization(module, "weight", owner[2])
        covered.append(covers)
    return covered
