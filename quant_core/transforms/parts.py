"""The parts of a network that a transform may change: its layers and norms, with what a map of their outputs or inputs does to them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from quant_core.network.forward import first_example, first_input, forward
from quant_core.network.linearity import has_hooks, is_torchs_own
from quant_core.network.trace import is_transformers_conv1d, quantizable
from quant_core.transforms.maps import ChannelMap

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, eq=False)
class Parts:
    """What of a network can be changed.

    Attributes:
        layers: name -> module, all layers.
        linear: names of those that are called and are a plain matrix product, whose input and output can be mapped.
        makers: names of those whose output alone can be: embeddings, convolutions.
        opaque: name -> module without submodules or matrices (norms, activations); each is one operation.
        gains: norm -> the weight at which it has no gain: 1, or 0 where it computes with 1 + weight.
        constants: name -> stored parameter or buffer of no such module.
        sizes: the channels of the norms.
    """

    layers: Mapping[str, nn.Module]
    linear: frozenset[str]
    makers: frozenset[str]
    opaque: Mapping[str, nn.Module]
    gains: Mapping[str, float]
    constants: Mapping[str, Tensor]
    sizes: frozenset[int]

    def output_axis(self, name: str) -> int:
        """Return the axis of a layer's output, from its end, along which its channels lie."""
        module: Any = self.layers[name]
        return -1 - len(module.kernel_size) if isinstance(module, _CONVOLUTIONS) else -1

    def outputs(self, name: str) -> int:
        """Return the output channels of a layer."""
        module: Any = self.layers[name]
        return int(module.weight.shape[_output_axis(module)])

    def inputs(self, name: str) -> int:
        """Return the input channels of a linear layer."""
        return int(self.layers[name].get_parameter("weight").numel() // self.outputs(name))


def parts_of(model: nn.Module, example: Any) -> Parts:
    """Return the parts of `model`, found by a run on the first of `example`."""
    layers = quantizable(model)
    plain = {name for name, module in layers.items() if is_plain(module)}
    linear = {name for name in plain if isinstance(layers[name], nn.Linear) or is_transformers_conv1d(layers[name])}
    opaque = {name: module for name, module in model.named_modules() if name not in layers and _is_opaque(module)}
    inputs = _first_inputs(model, {**opaque, **layers}, example)
    linear, plain = {name for name in linear if name in inputs}, {name for name in plain if name in inputs}
    gains = {name: gain for name, module in opaque.items() if (gain := _no_gain(module, inputs.get(name))) is not None}
    makers = {name for name in plain - linear if isinstance(layers[name], _CONVOLUTIONS) and getattr(layers[name], "groups", 1) == 1}
    makers |= {name for name, module in layers.items() if isinstance(module, nn.Embedding) and _is_table(module, inputs.get(name))}
    held = {id(tensor) for module in (*layers.values(), *opaque.values()) for tensor in (*module.parameters(), *module.buffers())}
    tensors = [*model.named_parameters(), *model.named_buffers()]
    stored = model.state_dict(keep_vars=True)
    constants = {name: tensor for name, tensor in tensors if id(tensor) not in held and tensor.is_floating_point() and name in stored}
    sizes = frozenset(int(x.shape[-1]) for name, x in inputs.items() if name in opaque and _is_norm_like(opaque[name]) and x.dim())
    return Parts(layers, frozenset(linear), frozenset(makers), opaque, gains, constants, sizes)


def is_plain(module: nn.Module) -> bool:
    """Tell whether a layer is torch's own, without hooks, and its weight a parameter."""
    weight = module._parameters.get("weight")
    return is_torchs_own(module) and not has_hooks(module) and weight is not None and weight.is_floating_point()


def _is_opaque(module: nn.Module) -> bool:
    simple = not module._modules and not isinstance(module, _BatchNorm) and not has_hooks(module)
    return simple and all(parameter.dim() < 2 for parameter in module.parameters())


def _is_norm_like(module: nn.Module) -> bool:
    return bool(module._parameters) or "Norm" in type(module).__name__


def _first_inputs(model: nn.Module, modules: Mapping[str, nn.Module], example: Any) -> dict[str, Tensor]:
    """Return the first input of every module in one run on one example."""
    inputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            tensor = first_input(args, kwargs) if args or kwargs else None
            if isinstance(tensor, Tensor):
                inputs.setdefault(name, tensor.clone())

        return hook

    handles = [module.register_forward_pre_hook(keep(name), with_kwargs=True) for name, module in modules.items()]
    try:
        with torch.no_grad():
            forward(model, first_example(example))
    finally:
        for handle in handles:
            handle.remove()
    return inputs


def _no_gain(norm: nn.Module, x: Tensor | None) -> float | None:
    """Return the weight at which a norm has no gain, tested on its input; None where its gain is not one factor per channel."""
    weight, bias = norm._parameters.get("weight"), norm._parameters.get("bias")
    if x is None or weight is None or weight.dim() != 1 or set(norm._parameters) - {"weight", "bias"} or x.shape[-1:] != weight.shape:
        return None

    def output(values: Tensor) -> Tensor:
        parameters = {"weight": values} | ({} if bias is None else {"bias": torch.zeros_like(bias)})
        result: Tensor = functional_call(norm, parameters, (x,))
        return result

    try:
        with torch.no_grad():
            ramp = torch.linspace(0.5, 2.0, len(weight), dtype=weight.dtype, device=weight.device)
            zero, one, other = output(torch.zeros_like(weight)), output(torch.ones_like(weight)), output(ramp)
    except Exception:  # a module that needs more than its input
        return None
    if not zero.any() and torch.allclose(other, one * ramp, rtol=1e-4, atol=1e-6):
        return 1.0
    return 0.0 if torch.allclose(other, zero * (1 + ramp), rtol=1e-4, atol=1e-6) and zero.any() else None


def _is_table(module: Any, indices: Tensor | None) -> bool:
    """Tell whether an embedding is linear in its table (a subclass may scale it), tested on its input."""
    if module.max_norm is not None or has_hooks(module) or indices is None or module._parameters.get("weight") is None:
        return False
    weight = module.weight.detach()
    with torch.no_grad():
        try:
            output, flipped = module(indices), functional_call(module, {"weight": weight.flip(-1)}, (indices,))
        except Exception:  # a forward pass that needs more
            return False
    return bool(torch.allclose(output.flip(-1), flipped, rtol=1e-5, atol=1e-6))


def _output_axis(module: Any) -> int:
    return 1 if isinstance(module, nn.Embedding) or is_transformers_conv1d(module) else 0


def map_output(module: Any, channel_map: ChannelMap, channels: Tensor | None = None) -> None:
    """Let a layer return its output mapped (in the given channels): its weight and bias become new parameters."""
    axis = _output_axis(module)
    for key, along in (("weight", axis), ("bias", 0)):
        parameter = module._parameters.get(key)
        if parameter is None:
            continue
        values = channel_map.apply(parameter.detach().double(), along)
        if channels is not None:
            shape = [1] * parameter.dim()
            shape[along] = -1
            values = torch.where(channels.to(values.device).reshape(shape), values, parameter.detach().double())
        put(module, key, values)


def map_input(module: Any, channel_map: ChannelMap) -> None:
    """Let a linear layer take its input mapped by a rotation, or by a scale without shift, and return what it did."""
    inverse = channel_map if channel_map.matrix is not None else ChannelMap(channel_map.size, scale=1.0 / _scale(channel_map))
    put(module, "weight", inverse.apply(module.weight.detach().double(), 0 if is_transformers_conv1d(module) else 1))


def map_norm(norm: Any, no_gain: float, scale: Tensor) -> None:
    """Let a norm return its output multiplied by `scale` [C]."""
    put(norm, "weight", (norm.weight.detach().double() + 1.0 - no_gain) * scale - (1.0 - no_gain))
    if norm._parameters.get("bias") is not None:
        put(norm, "bias", norm.bias.detach().double() * scale)


def fold_norm(norm: Any, no_gain: float, readers: list[Any]) -> None:
    """Move the gain g and the bias b of a norm into the layers that read it: W' = W diag(g), b' = b + W b."""
    gain = norm.weight.detach().double() + 1.0 - no_gain
    bias = norm._parameters.get("bias")
    for reader in readers:
        weight, transposed = reader.weight.detach().double(), is_transformers_conv1d(reader)
        if bias is not None and bias.any():
            shift = bias.detach().double() @ (weight if transposed else weight.t())
            put(reader, "bias", shift if reader.bias is None else reader.bias.detach().double() + shift, like=reader.weight)
        put(reader, "weight", weight * (gain[:, None] if transposed else gain))
    put(norm, "weight", torch.full_like(gain, no_gain))
    if bias is not None:
        put(norm, "bias", torch.zeros_like(gain))


def put(module: nn.Module, key: str, values: Tensor, like: Tensor | None = None) -> None:
    """Set a parameter (or buffer) of a module to values, in the type that it has."""
    old: Tensor | None = module._parameters.get(key)
    old = module._buffers.get(key) if old is None and like is None else old
    model = like if old is None else old
    assert model is not None
    new = values.to(model.dtype).contiguous()
    if key in module._buffers:
        module._buffers[key] = new
    else:
        module.register_parameter(key, nn.Parameter(new, requires_grad=model.requires_grad))


def _scale(channel_map: ChannelMap) -> Tensor:
    assert channel_map.scale is not None
    return channel_map.scale
