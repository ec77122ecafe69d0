"""`PostTraining`: applies policies to a private copy of a network without training, so that a trial is one forward pass and little else."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.codecs import Encoded
from quant_core.codecs.quantize import decode, encode
from quant_core.network.fold import fold_batch_norm
from quant_core.network.forward import with_first_input
from quant_core.network.moments import second_moments
from quant_core.network.statistics import collect
from quant_core.ptq.activation import ActivationQuantizer
from quant_core.ptq.adaround import adaround
from quant_core.ptq.corrections import equalize as equalize_layers
from quant_core.ptq.corrections import match_variance, output_shift
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.cache import CacheCounts, TensorCache
from quant_core.util.errors import InputError

_FLOAT = LayerPolicy()


class PostTraining:
    """Owns a copy of `model` with batch norms folded, its float weights, and the statistics of one pass over the calibration batches.

    Args:
        model: trained, float; it is not touched.
        layers: from `quant_core.network.trace.trace(model, example)`.
        batches: model inputs for calibration; at least one.
        example: one batch of model inputs.
        bias_correction: subtract the mean output shift that the weight error causes from each quantized layer's bias.
        scale_correction: multiply float scales so that each quantized layer's outputs keep their variance.
        equalize: run cross-layer equalisation first.
        reestimate: take activation ranges anew under each policy's quantized weights; a calibration pass per trial.
        cache_bytes: limit of the cache of quantized weights, corrected biases and second moments.

    Attributes:
        range_counts: how often the range of an activation was at hand, and how often it was taken from the statistics anew.

    Raises:
        InputError: no calibration batch; NaN or infinity in a weight or a calibration input, or a weight that is no parameter but
            computed in each call (parametrizations, weight norm); the layer is named.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        batches: Iterable[Any],
        example: Any,
        *,
        bias_correction: bool = True,
        scale_correction: bool = True,
        equalize: bool = False,
        reestimate: bool = False,
        cache_bytes: int = 2**30,
    ) -> None:
        self._layers = {each.name: each for each in layers}
        self._bias_correction, self._scale_correction = bias_correction, scale_correction
        self._reestimate, self._gathered = reestimate, False
        self.model = fold_batch_norm(model, example).requires_grad_(False)
        self._modules: dict[str, nn.Module] = {name: self.model.get_submodule(name) for name in self._layers}
        for name, module in self._modules.items():
            _require_plain_weight(name, module)
        if equalize:
            equalize_layers(self.model, layers, example)
        self._floats = {name: _own_parameters(module) for name, module in self._modules.items()}
        self._batches = list(batches)
        self.statistics = collect(self.model, layers, self._batches)
        self._cache, self._covariances = TensorCache(cache_bytes * 3 // 4), TensorCache(cache_bytes // 4)
        self._tied = {each.tied_to for each in layers} | {each.name for each in layers if each.tied_to}
        self._applied = dict.fromkeys(self._layers, _FLOAT)
        self._quantizers: dict[tuple[str, QuantSpec], ActivationQuantizer] = {}
        self.range_counts = CacheCounts()
        self._active: dict[str, ActivationQuantizer] = {}
        for name, module in self._modules.items():
            module.register_forward_pre_hook(self._input_hook(name), with_kwargs=True)

    @property
    def counts(self) -> CacheCounts:
        """What the cache of quantized weights has done."""
        return self._cache.counts

    @property
    def statistics_bytes(self) -> int:
        """Bytes held by calibration statistics and second moments."""
        return sum(each.nbytes for each in self.statistics.values()) + self._covariances.counts.bytes

    def apply(self, policy: Policy) -> nn.Module:
        """Return the private network quantized by `policy`; it stays so until the next `apply` or `restore`.

        Only layers whose policy changed are touched. Never-called layers stay in float, and so do the indices that an embedding reads.

        Raises:
            InputError: the policy is for other layers; the first that differs is named.
        """
        for given, known in ((policy, self._layers), (self._layers, policy)):
            for name in given:
                if name not in known:
                    where = "the network" if known is self._layers else "the policy"
                    raise InputError(f"the policy is for other layers: {name!r} is not in {where}; layers: {', '.join(self._layers)}.")
        self._active = {}
        for name, wanted in policy.items():
            if wanted.weight != self._applied[name].weight:
                self._set_weight(name, wanted.weight)
                self._applied[name] = wanted
        quantized = {name: each.activation for name, each in policy.items() if name in self.statistics and not each.activation.is_float}
        if self._reestimate and quantized:
            found = collect(self.model, list(self._layers.values()), self._batches)
            self._active = {name: ActivationQuantizer(spec, found[name], self._input_axis(name)) for name, spec in quantized.items()}
        else:
            self._active = {name: self._quantizer(name, spec) for name, spec in quantized.items()}
        return self.model

    def restore(self) -> nn.Module:
        """Return the private network in float."""
        return self.apply(Policy(dict.fromkeys(self._layers, _FLOAT)))

    def _set_weight(self, name: str, spec: QuantSpec) -> None:
        module, (weight, bias) = self._modules[name], self._floats[name]
        if not spec.is_float and self._layers[name].calls:
            weight, *corrected = self._cache.get((name, spec), lambda: self._quantized(name, spec))
            bias = corrected[0] if corrected else bias
        module.get_parameter("weight").data = weight
        if "bias" in module._parameters:
            module.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    def encoded(self, name: str, spec: QuantSpec) -> Encoded:
        """Return a layer's weight as `spec` stores it, with the corrections of this engine: what `apply` uses and packing writes.

        A tied weight is stored once for all its layers, so it is encoded without a look at their inputs: no AdaRound, no correction.
        """
        layer, module, weight = self._layers[name], self._modules[name], self._floats[name][0]
        measured = name in self.statistics and name not in self._tied
        if spec.rounding == "adaround" and measured:
            found = adaround(module, weight, spec, layer.channel_axis, self._moments(name))
        else:
            found = encode(weight, spec, channel_axis=layer.channel_axis, generator=seeded(layer.tied_to or name, spec))
        if not self._scale_correction or not measured:
            return found
        return match_variance(found, spec, module, weight, layer.channel_axis, self._moments(name))

    def _quantized(self, name: str, spec: QuantSpec) -> tuple[Tensor, ...]:
        """Return the quantized weight and, with bias correction, the bias that goes with it."""
        layer, module, (weight, bias) = self._layers[name], self._modules[name], self._floats[name]
        quantized = decode(self.encoded(name, spec), spec, tuple(weight.shape), channel_axis=layer.channel_axis).to(weight.dtype)
        if not self._bias_correction or name not in self.statistics:
            return (quantized,)
        shift = output_shift(module, quantized - weight, self.statistics[name])
        return quantized, (-shift if bias is None else bias - shift).to(weight.dtype)

    def _moments(self, name: str) -> Tensor:
        """Return the covariance of a layer's input patches in the float network. The first call gathers those of all layers."""
        wanted = {name: self._modules[name]} if self._gathered else {each: self._modules[each] for each in self.statistics}
        self._gathered = True

        def gather() -> dict[str, Tensor]:
            before = Policy(self._applied)
            self.restore()
            found = second_moments(self.model, wanted, self._batches, centered=True)
            self.apply(before)
            self._active = {}
            return found

        if len(wanted) == 1:
            return self._covariances.get(name, lambda: (gather()[name],))[0]
        found = gather()
        for each in found:
            self._covariances.get(each, partial(_one, found[each]))
        return found[name]

    def quantized_input(self, name: str, spec: QuantSpec, inputs: Tensor) -> Tensor:
        """Return a layer's input as `spec` would give it to the layer, with the ranges of the calibration."""
        return inputs if spec.is_float else self._quantizer(name, spec)(inputs)

    def _quantizer(self, name: str, spec: QuantSpec) -> ActivationQuantizer:
        if (name, spec) in self._quantizers:
            self.range_counts.hits += 1
        else:
            self.range_counts.misses += 1
            self._quantizers[name, spec] = ActivationQuantizer(spec, self.statistics[name], self._input_axis(name))
        return self._quantizers[name, spec]

    def _input_axis(self, name: str) -> int:
        return -1 - len(self._layers[name].kernel)

    def _input_hook(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> Any:
            quantizer = self._active.get(name)
            return None if quantizer is None else with_first_input(args, kwargs, quantizer)

        return hook


def _one(tensor: Tensor) -> tuple[Tensor, ...]:
    return (tensor,)


def seeded(name: str, spec: QuantSpec) -> torch.Generator:
    """Return the random numbers of one layer under one spec: the same in every process."""
    digest = hashlib.sha256(f"{name}|{spec}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


def _require_plain_weight(name: str, module: nn.Module) -> None:
    if module._parameters.get("weight") is None:
        advice = "fix it with torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.remove_weight_norm"
        raise InputError(f"layer {name!r}: its weight is no parameter but computed in each call; {advice}.")
    for which, parameter in module.named_parameters(recurse=False):
        if not bool(torch.isfinite(parameter).all()):
            raise InputError(f"layer {name!r}: its {which} (with its batch norm folded in) holds NaN or infinity; repair the network.")


def _own_parameters(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Give the module parameters of its own (a tied weight can then be set per layer) and return their float values."""
    weight = module.get_parameter("weight").detach()
    module.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    bias = module._parameters.get("bias")
    return weight, None if bias is None else bias.detach()
