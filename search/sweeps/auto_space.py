"""The choices of "auto": the integer formats that a device runs, layer by layer, without those that cost as much as better ones."""

from collections.abc import Iterable

from hw_models.device import Device
from hw_models.schema.capability import Capability
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import FLOAT, QuantSpec, parse
from quant_core.util.errors import InputError

WEIGHTS = (*(parse(f"int{bits}:channel:mse") for bits in (2, 3, 4, 5, 6, 8)), FLOAT)
ACTIVATIONS = (*(parse(f"int{bits}:tensor:mse") for bits in (4, 6, 8)), FLOAT)
Pair = tuple[tuple[QuantSpec, ...], tuple[QuantSpec, ...]]


def auto_choices(device: Device, layers: Iterable[Layer]) -> dict[str, Pair]:
    """Return layer name -> the specs of its weight and of its activation.

    Of the weights those that are legal with every kept activation: fewer bits are smaller, whatever they run as. Of the activations those
    that run by themselves: one that runs as a wider one gains nothing. Float is kept where no integer format is legal.

    Raises:
        InputError: the device runs a layer in no format of these.
    """
    return {layer.name: _pair(device, layer, device.legal(layer)) for layer in layers}


def _pair(device: Device, layer: Layer, legal: Capability) -> Pair:
    if not layer.calls:
        return (FLOAT,), (FLOAT,)
    activations = (FLOAT,) if not layer.takes_activation else _activations(legal)
    for kept in (activations, activations[-1:], (FLOAT,)):
        weights = tuple(spec for spec in WEIGHTS if kept and all(legal.allows(LayerPolicy(spec, activation)) for activation in kept))
        integers = tuple(spec for spec in weights if not spec.is_float)
        if weights:
            return integers or weights, kept
    raise InputError(f"layer {layer.name!r} ({layer.kind}): {device.name} runs it in no format that space = 'auto' knows; legal: {legal}.")


def _activations(legal: Capability) -> tuple[QuantSpec, ...]:
    """Return the integer activations that are legal with some weight and do not run as a wider one."""
    runs: dict[object, QuantSpec] = {}
    for spec in ACTIVATIONS:
        codes = tuple(legal.run_as(LayerPolicy(weight, spec)) for weight in WEIGHTS)
        if not spec.is_float and any(codes):
            runs[codes] = spec  # the widest of those that run alike
    return tuple(runs.values())
