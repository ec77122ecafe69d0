"""`mcu`: a microcontroller with an inference engine: latency from MACs, outputs and weight bytes, energy = active power x latency.

    t = MACs x ms/MMAC (depthwise MACs at their own) + outputs x ns/output + weight bytes x ns/byte

`mcu_fit` fits the rates to measured networks. Kernels work on bytes, so sub-byte codes save memory and no time, unless the engine file
gives their own speed per MAC; the bytes of a weight are those that the kernel takes, not those stored. SRAM and flash are hard limits
(`CostTable.limits`).
"""

import numpy as np
from pydantic import Field

from hw_models.device import Device
from hw_models.models import FloatArray, GoldenComparison, LayerChoices, LayerCost, LayerModel, Model, compare_points
from hw_models.models.mcu_fit import McuFit, Network, features, fit_rates, leave_one_out, measured, read_networks
from hw_models.schema.codes import code_bits
from hw_models.schema.device_file import Compute, Golden, NotNegative, Pair, Positive
from quant_core.spec.layer import Layer
from quant_core.util.errors import InputError
from quant_core.util.text import listed


class McuCompute(Compute):
    """The engine: its rates, the speed of pairs for which it has kernels of their own, and what the rates are fitted to."""

    engine: str
    ms_per_mmac: Positive
    depthwise_ms_per_mmac: NotNegative | None = None
    ns_per_output: NotNegative = 0.0
    ns_per_weight_byte: NotNegative = 0.0
    pair_ms_per_mmac: dict[Pair, Positive] = Field(default_factory=dict)
    fit: McuFit | None = None

    def rates(self, pair: str) -> FloatArray:
        """Return the rates [4] of a pair of codes, as `mcu_fit.RATES` orders them."""
        depthwise = self.ms_per_mmac if self.depthwise_ms_per_mmac is None else self.depthwise_ms_per_mmac
        per_mac = [self.pair_ms_per_mmac[pair]] * 2 if pair in self.pair_ms_per_mmac else [self.ms_per_mmac, depthwise]
        return np.array([*per_mac, self.ns_per_output, self.ns_per_weight_byte]) * 1e-9


def build(device: Device) -> LayerModel:
    """Return the model of one layer on the engine."""
    engine = device.compute_as(McuCompute)
    power = device.file.energy.active_power_w if device.file.energy else None

    def cost(layer: Layer, choices: LayerChoices) -> LayerCost:
        pairs = zip(choices.weight, choices.activation, strict=True)
        seconds = device.batch * np.array([features(layer, code_bits(w)) @ engine.rates(f"{w}/{a}") for w, a in pairs])
        return LayerCost(seconds, seconds, None, {"core": seconds * power} if power else {})

    return cost


def network_latency(device: Device, golden: Golden) -> GoldenComparison:
    """Check the latency in ms of whole networks at int8; a point is named by a network of the golden's `file` of layers.

    Raises:
        InputError: the file has no such network.
    """
    engine, networks = device.compute_as(McuCompute), read_networks(device.folder / golden.file)
    lacking = [point.name for point in golden.points if point.name not in networks]
    if lacking:
        raise InputError(f"golden check {golden.name!r}: {golden.file} has no network {', '.join(lacking)}; it has {', '.join(networks)}.")
    rates = engine.rates("int8/int8")
    predicted = [1e3 * sum(float(features(layer) @ rates) for layer in networks[point.name]) for point in golden.points]
    if engine.fit is None:
        return compare_points(golden, predicted)
    rows = measured(engine.fit, device.folder)
    by_row, by_network = (leave_one_out(engine.fit, rows, by_network) for by_network in (False, True))
    comparison = compare_points(golden, predicted, (_left_out(by_row, by_network), *_not_whole(engine.fit, rows)))
    return GoldenComparison(comparison.labels, comparison.expected, comparison.predicted, comparison.remarks, None, by_network)


def _left_out(by_row: FloatArray, by_network: FloatArray) -> str:
    """Return a sentence on the errors of measurements that the fit did not see."""
    text = f"leave one out of {len(by_row)}: mean error {by_row.mean():.2f} %, max {by_row.max():.1f} %"
    if np.array_equal(by_row, by_network):
        return text
    return f"{text}; the network left out on every board: mean error {by_network.mean():.2f} %, max {by_network.max():.1f} %"


def _not_whole(fit: McuFit, rows: tuple[Network, ...]) -> tuple[str, ...]:
    """Return a sentence per measured network that is not in the fit, because not all of its layers can have run."""
    rates = fit_rates(fit, rows)
    return tuple(
        f"{row.name} is not in the fit: its measured {1e3 * row.seconds:.1f} ms are {ratio:.2f} of the model's"
        for row in rows
        for ratio in [row.seconds / float(row.features @ rates)]
        if not row.whole
    )


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
MODEL = Model(
    McuCompute, build, "latency = MACs, outputs and weight bytes at their rates; energy = active power x latency", CHECKS, moves="run"
)
