"""`PostTraining`: applies policies to a private copy of a network without training, so that a trial is one forward pass and little else."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from quant_core.codecs import Encoded
from quant_core.codecs.quantize import decode, encode
from quant_core.network.faithful import fold_faithfully
from quant_core.network.forward import with_first_input
from quant_core.network.moments import InputMoments, MomentStore, second_moments
from quant_core.network.parameters import layer_module, put_weight
from quant_core.network.statistics import TensorStatistics, collect
from quant_core.ptq.activation import ActivationQuantizer
from quant_core.ptq.adaround import adaround
from quant_core.ptq.corrections import equalize as equalize_layers
from quant_core.ptq.corrections import match_variance, output_shift, response_of, row_energy, takes_gain
from quant_core.ptq.gptq import gptq
from quant_core.ptq.kv_cache import KvCache
from quant_core.ptq.parameters import installed, own_parameters, require_plain_weight, require_same_layers, seeded, unshare
from quant_core.ptq.store import QuantizedWeight, WeightStore
from quant_core.ptq.tied import readers, tied_layers
from quant_core.ptq.weighting import importance
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import FLOAT, QuantSpec
from quant_core.util.cache import CacheCounts
from quant_core.util.spill import SpillFile

_FLOAT = LayerPolicy()


class PostTraining:
    """Owns a copy of `model` with batch norms folded, its float weights, and the calibration statistics of each layer's input.

    The copy shares memory with `model` wherever folding changes nothing: the network must not be trained meanwhile. Calibration takes at
    most two passes over the batches, whatever the limit of the cache: one for the statistics, when the engine is made, and one for the
    second moments of all layers that can need them, before the first policy that does is applied (`reestimate` adds its own). The codes
    of every weight that was quantized stay, and so do the second moments: 4 K^2 bytes for a layer of K inputs per output up to 4,096, and
    a sample of 64 MiB above. What of it exceeds the limit of the cache lies in a temporary file.

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
        cache_bytes: memory of quantized weights that are not applied, codes, and second moments (at most half of it). A smaller one costs
            time, never a pass.
        at_once: examples that calibration runs at once, from `quant_core.network.apart.part_size`; 0: a batch.
        specs: layer name -> the specs that its weight will be asked for; second moments are gathered for layers that can need them. A
            policy outside of it costs another pass. None: any spec may come.

    Attributes:
        cache_bytes, corrects_bias, corrects_scale: as given; kv_cache: of the private network.
        calibration_passes: passes over the batches so far.
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
        specs: Mapping[str, Collection[QuantSpec]] | None = None,
        at_once: int = 0,
    ) -> None:
        self._layers = {layer.name: layer for layer in layers}
        self.corrects_bias, self.corrects_scale = bias_correction, scale_correction
        self._reestimate = reestimate
        self.model = fold_faithfully(model, example).requires_grad_(False)
        self._modules: dict[str, nn.Module] = {name: layer_module(self.model, layer) for name, layer in self._layers.items()}
        for name, module in self._modules.items():
            require_plain_weight(name, module)
        if equalize:
            unshare(self._modules)
            equalize_layers(self.model, layers, example)
        self._floats = {name: QuantizedWeight(*own_parameters(module)) for name, module in self._modules.items()}
        self._batches, self._at_once, self.kv_cache = list(batches), at_once, KvCache(self.model, example)
        self.calibration_passes, self.cache_bytes = 0, cache_bytes
        self.statistics = self._collected()
        self._file = SpillFile()
        self._store = WeightStore(cache_bytes, self._file)
        self._covariances: list[MomentStore] = []
        self._energies: dict[str, Tensor] = {}
        self._responses = {name: response_of(module, self.statistics.get(name)) for name, module in self._modules.items()}
        self._tied = tied_layers(layers)
        self._readers = readers(layers, [name for name in self.statistics if self._responses[name] != "other"])
        self._measured = tuple(dict.fromkeys(self._readers.values()))
        self._planned = self._measured if specs is None else self._read_by(specs)
        self._specs, self.range_counts = dict.fromkeys(self._layers, FLOAT), CacheCounts()
        self._quantizers: dict[tuple[str, QuantSpec], ActivationQuantizer] = {}
        self._active: dict[str, ActivationQuantizer] = {}
        for name in self.statistics:
            self._modules[name].register_forward_pre_hook(self._input_hook(name), with_kwargs=True)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in network order."""
        return tuple(self._layers.values())

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process has the moments of all planned layers, and calibrates no more."""
        self._gather_moments(self._planned)
        return self.__dict__

    @property
    def counts(self) -> CacheCounts:
        """The counts of the cache of quantized weights."""
        return self._store.counts

    @property
    def statistics_bytes(self) -> int:
        """Bytes of memory held by calibration statistics and second moments."""
        statistics = sum(statistics.nbytes for statistics in self.statistics.values())
        return statistics + sum(moments.nbytes for moments in self._covariances)

    def apply(self, policy: Policy) -> nn.Module:
        """Return the private network quantized by `policy`; it stays so until the next `apply` or `restore`.

        Only layers whose policy changed are touched. Never-called layers stay in float, and so do the indices that an embedding reads.

        Raises:
            InputError: the policy is for other layers; the first that differs is named.
        """
        require_same_layers(policy, self._layers)
        self._active = {}
        self.kv_cache.apply(FLOAT)
        changed = {name: layer.weight for name, layer in policy.items() if layer.weight != self._specs[name]}
        self._gather_moments(self._read_by({name: (spec,) for name, spec in changed.items()}))
        for name, spec in changed.items():
            is_float = spec.is_float or not self._layers[name].calls
            self._install(name, self._floats[name] if is_float else self._cached(name, spec))
            self._specs[name] = spec
        quantized = {name: layer.activation for name, layer in policy.items() if name in self.statistics and not layer.activation.is_float}
        if self._reestimate and quantized:
            statistics = self._collected()
            self._active = {name: ActivationQuantizer(spec, statistics[name], self._input_axis(name)) for name, spec in quantized.items()}
        else:
            self._active = {name: self._quantizer(name, spec) for name, spec in quantized.items()}
        self.kv_cache.apply(policy.kv)
        return self.model

    def restore(self) -> nn.Module:
        """Return the private network in float."""
        return self.apply(Policy(dict.fromkeys(self._layers, _FLOAT)))

    def encoded(self, name: str, spec: QuantSpec) -> Encoded:
        """Return a layer's weight as `spec` stores it, with the corrections of this engine; `apply` uses it and packing writes it.

        A weight that was encoded is not encoded again. A tied weight is stored once for all its layers: it is rounded for the inputs of
        the one among them that multiplies inputs, and its scales are not corrected.
        """
        return self._store.encoded((name, spec), lambda: self._quantize(name, spec))

    @contextmanager
    def weight_as(self, name: str, spec: QuantSpec) -> Iterator[None]:
        """Let one layer compute with its weight (and bias) under `spec` within the block, whatever policy is applied."""
        applied = installed(self._modules[name])
        is_float = spec.is_float or not self._layers[name].calls
        self._install(name, self._floats[name] if is_float else self._cached(name, spec))
        try:
            yield
        finally:
            self._install(name, applied)

    def _install(self, name: str, quantized: QuantizedWeight) -> None:
        """Let a layer compute with this weight and bias."""
        module, bias = self._modules[name], quantized.bias
        put_weight(module, quantized.weight)
        if "bias" in module._parameters:
            module.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    def _cached(self, name: str, spec: QuantSpec) -> QuantizedWeight:
        return self._store.weight((name, spec), lambda: self._quantize(name, spec), lambda encoded: self._decoded(name, spec, encoded))

    def _decoded(self, name: str, spec: QuantSpec, encoded: Encoded) -> Tensor:
        weight = self._floats[name].weight
        return decode(encoded, spec, tuple(weight.shape), channel_axis=self._layers[name].channel_axis).to(weight.dtype)

    def _quantize(self, name: str, spec: QuantSpec) -> tuple[Encoded, QuantizedWeight]:
        """Encode a layer's weight and correct its bias."""
        module, weight, bias = self._modules[name], self._floats[name].weight, self._floats[name].bias
        encoded = self._encode(name, spec)
        quantized = self._decoded(name, spec, encoded)
        if self.corrects_bias and name in self.statistics:
            shift = output_shift(module, quantized - weight, self.statistics[name], self._responses[name])
            if shift is not None:
                bias = (-shift if bias is None else bias - shift).to(weight.dtype)
        return encoded, QuantizedWeight(quantized, bias)

    def _encode(self, name: str, spec: QuantSpec) -> Encoded:
        layer, weight = self._layers[name], self._floats[name].weight
        if not self._needs_moments(name, spec):
            return encode(weight, spec, channel_axis=layer.channel_axis, generator=seeded(layer.tied_to or name, spec))
        module, covariance = self._modules[self._readers[name]], self._moments(name)
        if spec.rounding == "adaround":
            encoded = adaround(module, weight, spec, layer.channel_axis, covariance)
        elif spec.rounding == "gptq":
            encoded = gptq(module, weight, spec, layer.channel_axis, covariance)
        else:
            weights = importance(module, covariance) if spec.weighted else None
            encoded = encode(
                weight, spec, channel_axis=layer.channel_axis, generator=seeded(layer.tied_to or name, spec), importance=weights
            )
        if name in self._tied or not self.corrects_scale or not takes_gain(spec):
            return encoded
        if name not in self._energies:
            self._energies[name] = row_energy(module, weight, covariance)
        return match_variance(encoded, spec, module, weight, layer.channel_axis, covariance, self._energies[name])

    def _needs_moments(self, name: str, spec: QuantSpec) -> bool:
        rescaled = self.corrects_scale and takes_gain(spec) and name not in self._tied
        return not spec.is_float and name in self._readers and (spec.weighted or spec.rounding in ("adaround", "gptq") or rescaled)

    def _read_by(self, asked: Mapping[str, Collection[QuantSpec]]) -> tuple[str, ...]:
        """Return the layers whose moments the weights of `asked` need under one of their specs."""
        needing = (name for name, specs in asked.items() if any(self._needs_moments(name, spec) for spec in specs))
        return tuple(dict.fromkeys(self._readers[name] for name in needing))

    def _moments(self, name: str) -> InputMoments:
        reader = self._readers[name]
        self._gather_moments([reader])
        return next(moments[reader] for moments in self._covariances if reader in moments)

    def _gather_moments(self, needed: Sequence[str]) -> None:
        """Gather the covariances of the input patches of `needed` and of all planned layers in the float network, where any is new."""
        have = {name for moments in self._covariances for name in moments}
        if have.issuperset(needed):
            return
        modules = {name: self._modules[name] for name in self._measured if name not in have and (name in needed or name in self._planned)}
        applied = {name: installed(self._modules[name]) for name, spec in self._specs.items() if not spec.is_float}
        limit = self.cache_bytes // 2 - sum(moments.nbytes for moments in self._covariances)
        try:
            for name in applied:
                self._install(name, self._floats[name])
            with self._inputs_in_float():
                moments = second_moments(
                    self.model, modules, self._batches, centered=self.corrects_bias, limit=limit, file=self._file, at_once=self._at_once
                )
        finally:
            for name, quantized in applied.items():
                self._install(name, quantized)
        self.calibration_passes += 1
        self._covariances.append(moments)
        self._store.limit -= min(moments.nbytes, self._store.limit)

    def _collected(self) -> dict[str, TensorStatistics]:
        self.calibration_passes += 1
        return collect(self.model, list(self._layers.values()), self._batches, self._at_once)

    @contextmanager
    def _inputs_in_float(self) -> Iterator[None]:
        """Quantize no input, key or value within the block."""
        active, self._active = self._active, {}
        try:
            with self.kv_cache.off():
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
