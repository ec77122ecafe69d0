"""`mpic`: a RISC-V core with mixed-precision SIMD (Ottavi et al., arXiv 2010.04073): MACs per cycle of each pair of codes."""

from typing import TYPE_CHECKING

import numpy as np

from hw_models.models import LayerCost, LayerModel, Model, Modes, Points
from hw_models.schema.codes import spec_of
from hw_models.schema.device_file import Compute, Golden, Pair, Positive
from hw_models.shapes import layer_of
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import InputError

if TYPE_CHECKING:
    from hw_models.device import Device


class MpicCompute(Compute):
    """Pair of codes -> multiply-accumulates per cycle."""

    mac_per_cycle: dict[Pair, Positive]


def build(device: "Device") -> LayerModel:
    """Return the model of one layer.

    Raises:
        InputError: when a layer takes a legal pair that has no rate.
    """
    rates = device.compute_as(MpicCompute).mac_per_cycle
    power = device.file.energy.active_power_w if device.file.energy else None

    def cost(layer: Layer, modes: Modes) -> LayerCost:
        pairs = [f"{w}/{a}" for w, a in zip(modes.weight, modes.activation, strict=True)]
        lacking = [pair for pair in pairs if pair not in rates]
        if lacking:
            raise InputError(f"layer {layer.name!r}: {device.name} states no rate for {lacking[0]}; it has {', '.join(rates)}.")
        rate = np.array([rates[pair] for pair in pairs])
        seconds = device.batch * layer.macs / layer.calls / rate / device.clock_hz
        return LayerCost(seconds, seconds, None, {"core": seconds * power} if power else {})

    return cost


def rates_of_uniform(device: "Device", golden: Golden) -> Points:
    """Check the MACs per cycle that the cost of a layer comes to; a point is named by its pair of codes."""
    layer = layer_of({"kind": "conv", "in_channels": "16", "out_channels": "32", "kernel": "3", "in_size": "16"})
    predicted = []
    for point in golden.points:
        weight, activation = map(spec_of, point.name.split("/"))
        latency = device.cost((layer,), {layer.name: LayerPolicy(weight, activation)})["latency_s"]
        predicted.append(device.batch * layer.macs / (latency * device.clock_hz))
    return Points(tuple(point.name for point in golden.points), np.array([point.expected for point in golden.points]), np.array(predicted))


MODEL = Model(MpicCompute, build, "cycles = MACs / (MACs per cycle of the pair)", {"rates": rates_of_uniform})
