"""Batch-norm folding (Jacob et al., CVPR 2018, section 3.2): a batch norm right after a layer becomes part of its weight and bias."""

import copy
from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from quant_core.network.copies import sharing_copy
from quant_core.network.dataflow import record
from quant_core.network.forward import first_example, forward, watched_inputs
from quant_core.network.linearity import has_hooks, is_torchs_own, response_kind
from quant_core.network.recorder import stored_at
from quant_core.network.trace import is_transformers_conv1d, quantizable

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def fold_batch_norm(model: nn.Module, example: Any, skip: Collection[str] = (), *, share: bool = False) -> nn.Module:
    """Return a copy of `model`, in eval mode, in which every batch norm that can be folded is an Identity; layers in `skip` are left.

    It is folded where its input is exactly the output of one Linear, Conv, ConvTranspose or transformers' Conv1D module, nothing else
    reads that output, each of the two is called once, the weight is not shared, and both compute as torch's own do: a batch norm without a
    forward pass of its own, a layer that is linear in its weight, neither with hooks. What cannot be folded is left as it is. The outputs
    agree to rounding (1e-5 relative in float32). Dataflow is taken from one run on the first of `example`, a batch of model inputs.
    With `share` the parameters that are not folded lie where those of `model` do (see `sharing_copy`): for readers only.
    """
    shared = shared_layers(model)  # of a deep copy's parameters no two lie in one storage
    model = (sharing_copy(model) if share else copy.deepcopy(model)).eval()
    modules = dict(model.named_modules())
    for name, norm in foldable_norms(model, example, (*shared, *skip)).items():
        _fold(modules[name], norm)
        replace_module(model, norm, nn.Identity())
    return model


def shared_layers(model: nn.Module) -> list[str]:
    """Name the layers whose weight or bias is stored where another parameter is."""
    parameters = [parameter for module in model.modules() for parameter in module._parameters.values() if parameter is not None]
    users = Counter(map(stored_at, parameters))
    names = []
    for name, layer in quantizable(model).items():
        held = [parameter for key in ("weight", "bias") if (parameter := layer._parameters.get(key)) is not None]
        if any(users[stored_at(parameter)] > 1 for parameter in held):
            names.append(name)
    return names


def foldable_norms(model: nn.Module, example: Any, skip: Collection[str] = ()) -> dict[str, nn.Module]:
    """Return layer name -> the batch norm that can be folded into it; see `fold_batch_norm`. `model` is in eval mode."""
    layers = quantizable(model)
    norms: dict[str, nn.Module] = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    if not norms:
        return {}
    inputs = first_example(example)
    flow = record(model, layers | norms, lambda: forward(model, inputs))
    excluded = {*skip, *shared_layers(model)}
    foldable: dict[str, nn.Module] = {}
    for name, layer in layers.items():
        calls = flow.calls.get(name, [])
        norm = norms.get(flow.sole_reader(calls[0].write)) if len(calls) == 1 and name not in excluded else None
        if norm is not None and layer._parameters.get("weight") is not None and _foldable(norm, layer, calls[0].axes):
            foldable[name] = norm
    unusual = {name: layers[name] for name in foldable if not is_torchs_own(layers[name])}
    if unusual:
        seen = _first_inputs(model, unusual, inputs)
        foldable = {name: norm for name, norm in foldable.items() if name not in unusual or _is_linear(unusual[name], seen.get(name))}
    return foldable


def _foldable(norm: Any, layer: Any, axes: int) -> bool:
    """A batch norm has its channels on axis 1; a linear layer's output has them there only if it is [N, C]."""
    channels_second = axes == 2 or isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED))
    plain = is_torchs_own(norm) and not has_hooks(norm) and not has_hooks(layer)
    return plain and norm.running_mean is not None and channels_second and not isinstance(layer, nn.Embedding)


def _first_inputs(model: nn.Module, layers: dict[str, nn.Module], inputs: Any) -> dict[str, Tensor]:
    """Return the first input of every layer in one run."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor) -> None:
        seen.setdefault(name, x)

    with torch.no_grad(), watched_inputs(layers, keep):
        forward(model, inputs)
    return seen


def _is_linear(layer: nn.Module, x: Tensor | None) -> bool:
    return x is not None and response_kind(layer, x) == "linear"


def gain_and_bias(norm: Any, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the gain of a batch norm on a layer's outputs and the bias of the two together, per output channel, in float64.

    gain = gamma / sqrt(variance + eps), b' = (b - mean) gain + beta.
    """
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        gain = gain * norm.weight.detach().double()
    shifted = (-norm.running_mean.double() if bias is None else bias.detach().double() - norm.running_mean.double()) * gain
    return gain, shifted if norm.bias is None else shifted + norm.bias.detach().double()


def _fold(layer: Any, norm: Any) -> None:
    """w' = w gain, per output channel, in float64."""
    gain, bias = gain_and_bias(norm, layer.bias)
    weight = layer.weight.detach()
    layer.weight = nn.Parameter((weight.double() * per_output(layer, gain)).to(weight.dtype), requires_grad=layer.weight.requires_grad)
    layer.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=layer.weight.requires_grad)


def per_output(layer: Any, values: Tensor) -> Tensor:
    """Shape one value per output channel [C] so that it multiplies the layer's weight."""
    weight: Tensor = layer.weight
    if isinstance(layer, TRANSPOSED):  # [C_in, C_out / groups, ...]: the rows of each group have their own outputs
        expanded = values.reshape(layer.groups, 1, -1).expand(-1, weight.shape[0] // layer.groups, -1)
        return expanded.reshape(weight.shape[:2] + (1,) * (weight.dim() - 2))
    if is_transformers_conv1d(layer):
        return values.reshape(1, -1)
    return values.reshape(-1, *(1,) * (weight.dim() - 1))


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` in every place where `old` stands."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                parent._modules[name] = new
