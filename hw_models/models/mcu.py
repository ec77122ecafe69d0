"""`mcu`: a microcontroller with an inference engine: latency = MACs x ms/MMAC of the engine, energy = active power x latency.

Kernels work on bytes, so sub-byte codes save memory and no time, unless the engine file gives their own speed. SRAM and flash are
hard limits (`CostTable.limits`).
"""

import numpy as np
from pydantic import Field

from hw_models.device import Device
from hw_models.models import GoldenComparison, LayerChoices, LayerCost, LayerModel, Model, compare_points
from hw_models.schema.device_file import Compute, Golden, Pair, Positive
from quant_core.spec.layer import Layer
from quant_core.util.errors import InputError
from quant_core.util.text import listed


class McuCompute(Compute):
    """The engine: its speed, and the speed of pairs for which it has kernels of their own."""

    engine: str
    ms_per_mmac: Positive
    pair_ms_per_mmac: dict[Pair, Positive] = Field(default_factory=dict)


def build(device: Device) -> LayerModel:
    """Return the model of one layer on the engine."""
    engine = device.compute_as(McuCompute)
    power = device.file.energy.active_power_w if device.file.energy else None

    def cost(layer: Layer, choices: LayerChoices) -> LayerCost:
        pairs = zip(choices.weight, choices.activation, strict=True)
        speed = np.array([engine.pair_ms_per_mmac.get(f"{w}/{a}", engine.ms_per_mmac) for w, a in pairs])
        seconds = device.batch * layer.macs / layer.calls * speed * 1e-9
        return LayerCost(seconds, seconds, None, {"core": seconds * power} if power else {})

    return cost


def network_latency(device: Device, golden: Golden) -> GoldenComparison:
    """Check the latency in ms of whole networks, each given by its `macs`."""
    return _proportional(golden, "macs", device.compute_as(McuCompute).ms_per_mmac * 1e-6)


def energy_from_latency(device: Device, golden: Golden) -> GoldenComparison:
    """Check the energy in uJ of whole networks, each given by its measured `latency_ms`.

    Raises:
        InputError: the device file states no active power.
    """
    if device.file.energy is None or device.file.energy.active_power_w is None:
        raise InputError(f"device {device.name}: [energy] states no active_power_w, which this check needs.")
    return _proportional(golden, "latency_ms", device.file.energy.active_power_w * 1e3)


def _proportional(golden: Golden, key: str, factor: float) -> GoldenComparison:
    """Compare `factor` x the input of every point; the remark says how well a factor fitted to the other points predicts each."""
    lacking = [point.name for point in golden.points if not isinstance(point.given.get(key), int | float)]
    if lacking or not golden.points:
        raise InputError(f"golden check {golden.name!r}: point {listed(lacking) or '(there are none)'} has no number {key!r} in `given`.")
    inputs = np.array([float(point.given[key]) for point in golden.points])
    expected = np.array([point.expected for point in golden.points])
    ratio = inputs / expected
    others = ratio.sum() - ratio, (ratio**2).sum() - ratio**2  # relative least squares without the point: factor = sum r / sum r^2
    error = np.abs(others[0] / others[1] * ratio - 1).mean()
    remark = f"leave one out (factor fitted to the other points): mean error {100 * error:.2f} %"
    return compare_points(golden, inputs * factor, (remark,))


CHECKS = {
    "network_latency": "hw_models.models.mcu:network_latency",
    "energy_from_latency": "hw_models.models.mcu:energy_from_latency",
}
MODEL = Model(McuCompute, build, "latency = MACs x ms/MMAC; energy = active power x latency", CHECKS)
