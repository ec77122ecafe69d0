"""The network that is reconstructed: in float, or as far as it is quantized by now."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.codecs.qparams import QParams
from quant_core.codecs.quantize import decode
from quant_core.network.forward import with_first_input
from quant_core.network.linearity import Response
from quant_core.network.moments import InputMoments
from quant_core.network.parameters import StoredParameter, layer_module, put_weight
from quant_core.network.patches import weight_from_rows
from quant_core.ptq.corrections import response_of, with_variance
from quant_core.ptq.engine import PostTraining
from quant_core.ptq.gptq import gptq
from quant_core.ptq.parameters import own_parameters
from quant_core.ptq.store import QuantizedWeight
from quant_core.ptq.tied import readers, tied_layers
from quant_core.reconstruct.inputs import LearnedInput
from quant_core.reconstruct.rounding import FixedWeight, LearnedWeight, SoftWeight
from quant_core.spec.policy import Policy

ChangeInput = Callable[[Tensor], Tensor]
Moments = tuple[Tensor, Tensor]
"""Means and variances of the output channels of a layer, [C] each."""
Soft = tuple[Tensor, Tensor | None]
"""A weight and a bias with gradients."""


class ReconstructedNetwork:
    """A private copy of the float network, whose layers compute with float or quantized weights and inputs.

    Attributes:
        model: the network.
        layers: its layers, in network order.
        modules: layer -> module.
        weights: layer -> what it stores, at first that of `start`.
        inputs: layer -> the quantizer of its input.
        start: as given.
        shared: the layer for whose inputs a tied weight is rounded -> the others that compute with it.
        corrects_bias, corrects_scale: as the engine does.

    Args:
        model: in eval mode, made of the engine's network; it is changed.
        engine: gives the weights under `start` and the statistics of inputs; left in float.
        start: the policy to start from.
    """

    def __init__(self, model: nn.Module, engine: PostTraining, start: Policy) -> None:
        self.model, self.layers, self.start = model, engine.layers, start
        self.corrects_bias, self.corrects_scale = engine.corrects_bias, engine.corrects_scale
        self._of = {layer.name: layer for layer in engine.layers}
        self.modules: dict[str, nn.Module] = {name: layer_module(model, layer) for name, layer in self._of.items()}
        self._responses: dict[str, Response] = {
            name: response_of(module, engine.statistics.get(name)) for name, module in self.modules.items()
        }
        self.shared = self._sharing(readers(self.layers, [name for name in engine.statistics if self._responses[name] != "other"]))
        self._floats = {name: QuantizedWeight(*own_parameters(module)) for name, module in self.modules.items()}
        self._aims: dict[str, Tensor] = {}
        self._applied: dict[str, QuantizedWeight] = {}
        self.weights: dict[str, LearnedWeight] = {}
        self.inputs: dict[str, LearnedInput] = {}
        self._active: Mapping[str, ChangeInput] = {}
        self._take(engine)

    def learnable(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the layers whose rounding is learned: called once per pass or more, linear in a weight of their own that is quantized."""
        tied = tied_layers(self.layers)
        return tuple(
            name
            for name in names
            if name in self.weights and name not in tied and self._responses[name] != "other" and self._of[name].kind != "embedding"
        )

    def soft(self, names: Sequence[str], units: Mapping[str, float]) -> dict[str, SoftWeight]:
        """Return the soft weights of layers, at their present values."""
        return {
            name: SoftWeight(
                self.modules[name],
                self._of[name],
                self.start[name].weight,
                self._aims.get(name, self._floats[name].weight),
                self.weights[name],
                units[name],
            )
            for name in names
        }

    def fixed(self, names: Sequence[str], units: Mapping[str, float]) -> dict[str, FixedWeight]:
        """Return weights of layers whose codes are the present ones."""
        specs = {name: self.start[name].weight for name in names}
        return {name: FixedWeight(self.modules[name], self._of[name], specs[name], self.weights[name], units[name]) for name in names}

    def calls(self, name: str) -> int:
        """Return how often a layer is called per pass."""
        return self._of[name].calls

    def output_axis(self, name: str) -> int:
        """Return the axis of a layer's output channels in its outputs, from the end."""
        return -1 - len(self._of[name].kernel)

    def response(self, name: str) -> Response:
        """Return how a layer's output depends on its weight."""
        return self._responses[name]

    def float_weight(self, name: str) -> Tensor:
        """Return a layer's float weight."""
        return self._floats[name].weight

    def rounded_for(self, name: str, moments: InputMoments, shift: Tensor | None) -> LearnedWeight:
        """Return a layer's weight, plus `shift` [G, O, K], by GPTQ for these moments of its inputs, and its bias as it is.

        The shifted weight is what the layer's rounding is learned for from now on.
        """
        module, weight, spec = self.modules[name], self._floats[name].weight, self.start[name].weight
        if shift is not None:
            weight = (weight + weight_from_rows(module, shift).to(weight.dtype)).contiguous()
        self._aims[name] = weight
        return LearnedWeight(gptq(module, weight, spec, self._of[name].channel_axis, moments), self.weights[name].bias)

    def matched(self, name: str, wanted: Moments, reached: Moments) -> LearnedWeight:
        """Return the codes, scales and bias of a layer that bring the mean and variance of its outputs from `reached` to `wanted`."""
        stored, gain = self.weights[name], torch.ones_like(wanted[1])
        encoded = stored.encoded
        if self.corrects_scale:
            encoded, gain = with_variance(encoded, self.start[name].weight, self.modules[name], wanted[1], reached[1])
        if not self.corrects_bias or stored.bias is None:
            return LearnedWeight(encoded, stored.bias)
        without_bias = reached[0] - stored.bias.double()
        return LearnedWeight(encoded, (wanted[0] - gain * without_bias).to(stored.bias.dtype))

    def adopt(self, weights: Mapping[str, LearnedWeight], grids: Mapping[str, QParams]) -> None:
        """Let layers store these weights and grids of inputs from now on."""
        for name, stored in weights.items():
            self.weights[name] = stored
            like, spec = self._floats[name].weight, self.start[name].weight
            values = decode(stored.encoded, spec, tuple(like.shape), channel_axis=self._of[name].channel_axis).to(like.dtype)
            self._applied[name] = QuantizedWeight(values, stored.bias)
        for name, grid in grids.items():
            self.inputs[name].quantizer.static = grid

    def grids(self, names: Sequence[str]) -> dict[str, QParams]:
        """Return the static grids of the inputs of layers."""
        return {name: grid for name in names if name in self.inputs and (grid := self.inputs[name].quantizer.static) is not None}

    def in_float(self) -> nn.Module:
        """Return the network with float weights and inputs."""
        self._active = {}
        for name in self._applied:
            self._install(name, self._floats[name])
        return self.model

    def quantized(self) -> nn.Module:
        """Return the network with quantized weights and inputs."""
        self._active = {name: learned.quantizer for name, learned in self.inputs.items()}
        for name, weight in self._applied.items():
            self._install(name, weight)
        return self.model

    @contextmanager
    def learning(self, weights: Mapping[str, Soft], inputs: Mapping[str, ChangeInput]) -> Iterator[None]:
        """Let layers compute with tensors that have gradients, and with these changes of their inputs, within the block."""
        before, self._active = self._active, {**self._active, **inputs}
        with ExitStack() as stack:
            for name, (weight, bias) in weights.items():
                stack.enter_context(_computed(self.modules[name], weight, bias))
            try:
                yield
            finally:
                self._active = before

    def _take(self, engine: PostTraining) -> None:
        """Take the weights under the start, and quantizers of inputs."""
        model = engine.apply(self.start)
        for name, layer in self._of.items():
            policy = self.start[name]
            if layer.calls and not policy.weight.is_float:
                module = layer_module(model, layer)
                weight, bias = _usable(module.get_parameter("weight")), module._parameters.get("bias")
                self._applied[name] = QuantizedWeight(weight, None if bias is None else _usable(bias))
                self.weights[name] = LearnedWeight(engine.encoded(name, policy.weight), self._applied[name].bias)
            if name in engine.statistics and not policy.activation.is_float:
                device = self._floats[name].weight.device
                self.inputs[name] = LearnedInput(policy.activation, engine.statistics[name], -1 - len(layer.kernel), device)
                self.modules[name].register_forward_pre_hook(self._hook(name), with_kwargs=True)
        engine.restore()

    def _sharing(self, chosen: Mapping[str, str]) -> Mapping[str, tuple[str, ...]]:
        """Return `shared` of layer -> the layer for whose inputs its weight is rounded; where their specs are alike."""
        shared: dict[str, tuple[str, ...]] = {}
        for name, reader in chosen.items():
            if name != reader and self.start[name].weight == self.start[reader].weight and not self.start[name].weight.is_float:
                shared[reader] = (*shared.get(reader, ()), name)
        return shared

    def _install(self, name: str, quantized: QuantizedWeight) -> None:
        module, bias = self.modules[name], quantized.bias
        put_weight(module, quantized.weight)
        if "bias" in module._parameters:
            module.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> Any:
            change = self._active.get(name)
            return None if change is None else with_first_input(args, kwargs, change)

        return hook


def _usable(parameter: Tensor) -> Tensor:
    """Return values that gradients may be taken through; those of an engine can have been made in inference mode."""
    tensor = parameter.detach()
    return tensor.clone() if tensor.is_inference() else tensor


@contextmanager
def _computed(module: nn.Module, weight: Tensor, bias: Tensor | None) -> Iterator[None]:
    """Let `module` compute with a weight and a bias that are no parameters within the block."""
    assert not isinstance(module, StoredParameter)
    held = {"weight": weight} | ({} if bias is None else {"bias": bias})
    before = {key: module._parameters.pop(key) for key in held}
    module.__dict__.update(held)
    try:
        yield
    finally:
        for key, parameter in before.items():
            del module.__dict__[key]
            module._parameters[key] = parameter
