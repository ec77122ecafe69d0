"""`mpic`: a RISC-V core with mixed-precision SIMD (Ottavi et al., arXiv 2010.04073): MACs per cycle of each pair of codes."""

import numpy as np

from hw_models.device import Device
from hw_models.models import LayerChoices, LayerCost, LayerModel, Model
from hw_models.schema.device_file import Compute, Pair, Positive
from quant_core.spec.layer import Layer
from quant_core.util.errors import InputError
from quant_core.util.text import listed


class MpicCompute(Compute):
    """Pair of codes -> multiply-accumulates per cycle."""

    mac_per_cycle: dict[Pair, Positive]


def build(device: Device) -> LayerModel:
    """Return the model of one layer.

    Raises:
        InputError: when a layer takes a legal pair that has no rate.
    """
    rates = device.compute_as(MpicCompute).mac_per_cycle
    power = device.file.energy.active_power_w if device.file.energy else None

    def cost(layer: Layer, choices: LayerChoices) -> LayerCost:
        pairs = [f"{w}/{a}" for w, a in zip(choices.weight, choices.activation, strict=True)]
        lacking = [pair for pair in pairs if pair not in rates]
        if lacking:
            raise InputError(f"layer {layer.name!r}: {device.name} states no rate for {lacking[0]}; it has {listed(rates)}.")
        rate = np.array([rates[pair] for pair in pairs])
        seconds = device.batch * layer.macs / layer.calls / rate / device.clock_hz
        return LayerCost(seconds, seconds, None, {"core": seconds * power} if power else {})

    return cost


MODEL = Model(
    MpicCompute,
    build,
    "cycles = MACs / (MACs per cycle of the pair)",
    {"rates": "hw_models.validation.mpic:rates_of_uniform"},
    moves="none",
)
