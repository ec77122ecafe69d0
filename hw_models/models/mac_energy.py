"""`mac_energy`: energy of the arithmetic at 45 nm, and of moving every bit once.

A w x a multiplier and the accumulation of its product, from Horowitz (ISSCC 2014) by fitting the 8 and 32 bit integer figures:
    E(w, a) = 0.0029948 w a + 0.0010417 (w + a) / 2 + 0.003125 (w + a + 8)  pJ.
Weights are read once per pass from one level of memory, inputs read and outputs written once in another, at the bits that are stored
(the layer's own activation bits), whatever they run as. No time: these are energies of parts, not of a machine.
"""

import numpy as np

from hw_models.device import Device
from hw_models.models import FloatArray, GoldenComparison, LayerChoices, LayerCost, LayerModel, Model, compare_points
from hw_models.schema.codes import code_bits
from hw_models.schema.device_file import Compute, Golden, Positive
from quant_core.spec.layer import Layer
from quant_core.util.errors import InputError
from quant_core.util.text import listed


class MacEnergyCompute(Compute):
    """Coefficients of E(w, a), and which memory levels hold weights and activations."""

    pj_per_bit_product: Positive
    pj_per_mean_bit: Positive
    pj_per_sum_bit: Positive
    extra_sum_bits: int
    weights_from: str
    activations_in: str


def mac_pj(compute: MacEnergyCompute, w: FloatArray, a: FloatArray) -> FloatArray:
    """Return the pJ of one multiply-accumulate, [K], for bits `w` and `a` [K]."""
    product = compute.pj_per_bit_product * w * a + compute.pj_per_mean_bit * (w + a) / 2
    return product + compute.pj_per_sum_bit * (w + a + compute.extra_sum_bits)


def build(device: Device) -> LayerModel:
    """Return the energy of one layer.

    Raises:
        InputError: a memory level that `[compute]` names does not exist or states no energy.
    """
    compute = device.compute_as(MacEnergyCompute)
    weight_read, _ = _level(device, compute.weights_from)
    read, write = _level(device, compute.activations_in)

    def cost(layer: Layer, choices: LayerChoices) -> LayerCost:
        w, a = choices.w_bits.astype(np.float64), choices.a_bits.astype(np.float64)
        moved = device.batch * choices.stored_a_bits.astype(np.float64) * (layer.in_elements * read + layer.out_elements * write)
        mac = device.batch * layer.macs / layer.calls * mac_pj(compute, w, a)
        parts = {"mac": mac, compute.activations_in: moved, compute.weights_from: choices.weight_bits * weight_read}
        return LayerCost(energy_j={part: pj * 1e-12 for part, pj in parts.items()})

    return cost


def _level(device: Device, name: str) -> tuple[float, float]:
    """Return pJ per bit (read, write) of a memory level."""
    levels = {level.name: level for level in device.file.memory}
    level = levels.get(name)
    if level is None or level.read_pj_per_bit is None or level.write_pj_per_bit is None:
        raise InputError(f"device {device.name}: memory level {name!r} with read and write energy is needed; levels: {listed(levels)}.")
    return level.read_pj_per_bit, level.write_pj_per_bit


def synthesised(device: Device, golden: Golden) -> GoldenComparison:
    """Check the pJ of one multiply-accumulate; a point is named by its code, taken by both operands."""
    bits = np.array([float(code_bits(point.name)) for point in golden.points])
    return compare_points(golden, mac_pj(device.compute_as(MacEnergyCompute), bits, bits))


MODEL = Model(
    MacEnergyCompute, build, "E(w, a) per MAC, and every bit moved once", {"synthesised": "hw_models.models.mac_energy:synthesised"}
)
