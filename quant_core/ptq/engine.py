"""`PostTraining`: applies policies to a private copy of a network without training, so that a trial is one forward pass and little else."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.codecs import Encoded
from quant_core.codecs.quantize import decode, encode
from quant_core.network.faithful import fold_faithfully
from quant_core.network.forward import with_first_input
from quant_core.network.moments import InputMoments, second_moments
from quant_core.network.statistics import collect
from quant_core.ptq.activation import ActivationQuantizer
from quant_core.ptq.adaround import adaround
from quant_core.ptq.corrections import equalize as equalize_layers
from quant_core.ptq.corrections import match_variance, output_shift, response_of
from quant_core.ptq.gptq import gptq
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import FLOAT, QuantSpec
from quant_core.util.cache import BoundedCache, CacheCounts
from quant_core.util.errors import InputError
from quant_core.util.text import listed

_FLOAT = LayerPolicy()


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """A layer's weight under one spec.

    Attributes:
        encoded: its codes and scales, as it is stored; None in float.
        weight: the values that the codes stand for.
        bias: the bias that goes with it, or None.
    """

    encoded: Encoded | None
    weight: Tensor
    bias: Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        codes = 0 if self.encoded is None else self.encoded.nbytes
        return codes + self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)


class PostTraining:
    """Owns a copy of `model` with batch norms folded, its float weights, and the calibration statistics of each layer's input.

    Calibration takes at most two passes over the batches, whatever the limit of the cache: one for the statistics, when the engine is
    made, and one for the second moments of all layers, before the first policy that needs them is applied (`reestimate` adds its own).
    The second moments stay: 4 K^2 bytes for a layer of K inputs per output up to 4,096, and a sample of
    64 MiB above. So do the codes of the weights that are applied.

    Args:
        model: trained, float; it is not touched. A copy in which batch norms are folded must give its outputs (see
            `quant_core.network.faithful`); corrections leave layers alone whose own forward pass is not linear in the weight.
        layers: from `quant_core.network.trace.trace(model, example)`.
        batches: model inputs for calibration; at least one.
        example: one batch of model inputs.
        bias_correction: subtract the mean output shift that the weight error causes from each quantized layer's bias.
        scale_correction: multiply float scales so that each quantized layer's outputs keep their variance.
        equalize: run cross-layer equalisation first.
        reestimate: take activation ranges anew under each policy's quantized weights; a calibration pass per trial.
        cache_bytes: limit of the cache of quantized weights, their codes and corrected biases. A smaller one costs time, never a pass.

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
        self._layers = {layer.name: layer for layer in layers}
        self._bias_correction, self._scale_correction = bias_correction, scale_correction
        self._reestimate = reestimate
        self.model = fold_faithfully(model, example).requires_grad_(False)
        self._modules: dict[str, nn.Module] = {name: self.model.get_submodule(name) for name in self._layers}
        for name, module in self._modules.items():
            _require_plain_weight(name, module)
        if equalize:
            equalize_layers(self.model, layers, example)
        self._floats = {name: QuantizedWeight(None, *_own_parameters(module)) for name, module in self._modules.items()}
        self._batches = list(batches)
        self.statistics = collect(self.model, layers, self._batches)
        self._cache: BoundedCache[QuantizedWeight] = BoundedCache(cache_bytes)
        self._covariances: dict[str, InputMoments] | None = None
        self._responses = {name: response_of(module, self.statistics.get(name)) for name, module in self._modules.items()}
        tied = {layer.tied_to for layer in layers} | {layer.name for layer in layers if layer.tied_to}
        self._measured = [name for name in self.statistics if name not in tied and self._responses[name] != "other"]
        self._specs = dict.fromkeys(self._layers, FLOAT)
        self._applied = dict(self._floats)
        self._quantizers: dict[tuple[str, QuantSpec], ActivationQuantizer] = {}
        self.range_counts = CacheCounts()
        self._active: dict[str, ActivationQuantizer] = {}
        for name, module in self._modules.items():
            module.register_forward_pre_hook(self._input_hook(name), with_kwargs=True)

    @property
    def counts(self) -> CacheCounts:
        """The counts of the cache of quantized weights."""
        return self._cache.counts

    @property
    def statistics_bytes(self) -> int:
        """Bytes held by calibration statistics and second moments."""
        moments = (self._covariances or {}).values()
        return sum(statistics.nbytes for statistics in self.statistics.values()) + sum(covariance.nbytes for covariance in moments)

    def apply(self, policy: Policy) -> nn.Module:
        """Return the private network quantized by `policy`; it stays so until the next `apply` or `restore`.

        Only layers whose policy changed are touched. Never-called layers stay in float, and so do the indices that an embedding reads.

        Raises:
            InputError: the policy is for other layers; the first that differs is named.
        """
        self._require_same_layers(policy)
        self._active = {}
        changed = {name: layer.weight for name, layer in policy.items() if layer.weight != self._specs[name]}
        if any(self._needs_moments(name, spec) for name, spec in changed.items()):
            self._gather_moments()
        for name, spec in changed.items():
            is_float = spec.is_float or not self._layers[name].calls
            self._install(name, self._floats[name] if is_float else self._cached(name, spec))
            self._specs[name] = spec
        quantized = {name: layer.activation for name, layer in policy.items() if name in self.statistics and not layer.activation.is_float}
        if self._reestimate and quantized:
            statistics = collect(self.model, list(self._layers.values()), self._batches)
            self._active = {name: ActivationQuantizer(spec, statistics[name], self._input_axis(name)) for name, spec in quantized.items()}
        else:
            self._active = {name: self._quantizer(name, spec) for name, spec in quantized.items()}
        return self.model

    def restore(self) -> nn.Module:
        """Return the private network in float."""
        return self.apply(Policy(dict.fromkeys(self._layers, _FLOAT)))

    def encoded(self, name: str, spec: QuantSpec) -> Encoded:
        """Return a layer's weight as `spec` stores it, with the corrections of this engine; `apply` uses it and packing writes it.

        A weight that is applied, or in the cache, is not encoded again. A tied weight is stored once for all its layers, so it is encoded
        without regard to their inputs: no AdaRound, no correction.
        """
        if spec == self._specs[name] and self._applied[name].encoded is not None:
            quantized = self._applied[name]
        else:
            quantized = self._cached(name, spec)
        assert quantized.encoded is not None
        return quantized.encoded

    def _require_same_layers(self, policy: Policy) -> None:
        for names, others, where in ((policy, self._layers, "the network"), (self._layers, policy, "the policy")):
            for name in names:
                if name not in others:
                    raise InputError(f"the policy is for other layers: {name!r} is not in {where}; layers: {listed(self._layers)}.")

    def _install(self, name: str, quantized: QuantizedWeight) -> None:
        """Let a layer compute with this weight and bias."""
        module, bias = self._modules[name], quantized.bias
        module.get_parameter("weight").data = quantized.weight
        if "bias" in module._parameters:
            module.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
        self._applied[name] = quantized

    def _cached(self, name: str, spec: QuantSpec) -> QuantizedWeight:
        return self._cache.get((name, spec), lambda: self._quantize(name, spec))

    def _quantize(self, name: str, spec: QuantSpec) -> QuantizedWeight:
        """Encode a layer's weight and correct its bias."""
        layer, module = self._layers[name], self._modules[name]
        weight, bias = self._floats[name].weight, self._floats[name].bias
        encoded = self._encode(name, spec)
        quantized = decode(encoded, spec, tuple(weight.shape), channel_axis=layer.channel_axis).to(weight.dtype)
        if self._bias_correction and name in self.statistics:
            shift = output_shift(module, quantized - weight, self.statistics[name], self._responses[name])
            if shift is not None:
                bias = (-shift if bias is None else bias - shift).to(weight.dtype)
        return QuantizedWeight(encoded, quantized, bias)

    def _encode(self, name: str, spec: QuantSpec) -> Encoded:
        layer, module, weight = self._layers[name], self._modules[name], self._floats[name].weight
        if not self._needs_moments(name, spec):
            return encode(weight, spec, channel_axis=layer.channel_axis, generator=seeded(layer.tied_to or name, spec))
        covariance = self._gather_moments()[name]
        if spec.rounding == "adaround":
            encoded = adaround(module, weight, spec, layer.channel_axis, covariance)
        elif spec.rounding == "gptq":
            encoded = gptq(module, weight, spec, layer.channel_axis, covariance)
        else:
            encoded = encode(weight, spec, channel_axis=layer.channel_axis, generator=seeded(name, spec))
        return match_variance(encoded, spec, module, weight, layer.channel_axis, covariance) if self._scale_correction else encoded

    def _needs_moments(self, name: str, spec: QuantSpec) -> bool:
        return not spec.is_float and name in self._measured and (self._scale_correction or spec.rounding in ("adaround", "gptq"))

    def _gather_moments(self) -> dict[str, InputMoments]:
        """Return the covariances of the input patches of all measured layers in the float network. The first call runs over the batches."""
        if self._covariances is None:
            modules, applied = {name: self._modules[name] for name in self._measured}, dict(self._applied)
            try:
                for name, original in self._floats.items():
                    self._install(name, original)
                with self._inputs_in_float():
                    self._covariances = second_moments(self.model, modules, self._batches, centered=self._bias_correction)
            finally:
                for name, quantized in applied.items():
                    self._install(name, quantized)
        return self._covariances

    @contextmanager
    def _inputs_in_float(self) -> Iterator[None]:
        """Quantize no input within the block."""
        active, self._active = self._active, {}
        try:
            yield
        finally:
            self._active = active

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
