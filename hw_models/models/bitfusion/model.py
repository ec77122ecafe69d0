"""`bitfusion`: a spatial array of 2-bit bricks that fuse into wider multipliers (Sharma et al., Bit Fusion, ISCA 2018).

The schedule of a layer is found by `search.schedule`. The array runs 1 bit as 2, 3 as 4, 5 to 7 as 8, and more in passes of 8, but
stores and moves every operand at its own bits. With few channels a narrow mode can pad more than it saves, so that its schedule is
slower, or moves more bits, than that of a wider mode. So that more bits never look cheaper, a pair of equal bits is charged at least
what narrower equal pairs are, and a pair of unequal bits what its schedule costs, but at least what narrower pairs and at most what
the equal pair that contains it is charged (the array can run it as that). The notes say where. Groups, and so the channels of a
depthwise layer, run one after the other.
"""

import numpy as np
from pydantic import Field

from hw_models.device import Device
from hw_models.models import FloatArray, IntArray, LayerChoices, LayerCost, LayerModel, Model
from hw_models.models.bitfusion.cache import schedules
from hw_models.models.bitfusion.machine import Array, LayerWorkload, native_bits, workload_of
from hw_models.models.bitfusion.search import energy_pj
from hw_models.schema.device_file import Compute, MemoryLevel
from quant_core.spec.layer import Layer
from quant_core.util.errors import InputError
from quant_core.util.text import listed

LEVELS = ("dram", "activation_buffer", "weight_buffer", "output_buffer")
PARTS = ("core", "sram", "dram")
_UNIT_J = 2.0**-55


class BitFusionCompute(Compute):
    """The array; a convolution of an image of at most `im2col_max_channels` channels is unrolled."""

    rows: int = Field(ge=1)
    cols: int = Field(ge=1)
    im2col_max_channels: int = Field(default=4, ge=0)


def array_of(device: Device) -> Array:
    """Return the array that a device file describes.

    Raises:
        InputError: a memory level is missing or lacks a number, or the energy of the core is not given.
    """
    compute = device.compute_as(BitFusionCompute)
    dram, acts, weights, outs = (_level(device, name) for name in LEVELS)
    core = device.file.energy.core_pj_per_cycle if device.file.energy else None
    if core is None:
        raise InputError(f"device {device.name}: [energy] states no core_pj_per_cycle, which schedules are chosen by; add it.")
    if dram.bits_per_cycle is None or not all(level.size_bytes for level in (acts, weights, outs)):
        raise InputError(f"device {device.name}: memory level dram needs bits_per_cycle, the three buffers need size_bytes.")
    act_bytes, weight_bytes, out_bytes = (int(level.size_bytes or 0) for level in (acts, weights, outs))
    energies = (_pj(acts), _pj(weights), _pj(outs), _pj(dram)[0])
    return Array(compute.rows, compute.cols, int(dram.bits_per_cycle), act_bytes, weight_bytes, out_bytes, core, *energies)


def _level(device: Device, name: str) -> MemoryLevel:
    levels = {level.name: level for level in device.file.memory}
    level = levels.get(name)
    if level is None or level.read_pj_per_bit is None or level.write_pj_per_bit is None:
        raise InputError(f"device {device.name}: memory level {name!r} with read and write energy is needed; levels: {listed(levels)}.")
    return level


def _pj(level: MemoryLevel) -> tuple[float, float]:
    return level.read_pj_per_bit or 0.0, level.write_pj_per_bit or 0.0


def build(device: Device) -> LayerModel:
    """Return the model of one layer on the array of `device`."""
    array, channels = array_of(device), device.compute_as(BitFusionCompute).im2col_max_channels

    def cost(layer: Layer, choices: LayerChoices) -> LayerCost:
        workload, groups = workload_of(layer, device.batch, channels)
        a, w = _moved_bits(choices.stored_a_bits, choices.a_bits), _moved_bits(choices.stored_w_bits, choices.w_bits)
        at = (a - 1, w - 1)
        cycles, picojoules = _grid(array, workload, -(-int(max(a.max(), w.max())) // 8) * 8)
        energy = picojoules.sum(axis=0)
        total, spent = charged(cycles[1]), charged(energy)
        compute, memory = np.minimum(cycles[0], total), cycles[2]
        per_cycle, per_pj = groups / device.clock_hz, groups * 1e-12
        parts = dict(zip(PARTS, _split(picojoules * per_pj, spent * per_pj)[:, *at], strict=True))
        changed = ((total != cycles[1]) | (spent != energy))[at]
        notes = tuple("charged with other modes" if differs else "" for differs in changed)
        return LayerCost(compute[at] * per_cycle, total[at] * per_cycle, memory[at] * per_cycle, parts, notes)

    return cost


def _moved_bits(stored: IntArray, run: IntArray) -> IntArray:
    """Return [K] bits that an operand moves at: its own, or those that it runs as where the file widens it to another mode."""
    return np.where(native_bits(stored) == native_bits(run), stored, run)


def _grid(array: Array, workload: LayerWorkload, widest: int) -> tuple[FloatArray, FloatArray]:
    """Return (compute, all, DRAM cycles) and (core, SRAM, DRAM) pJ, each [3, G, G] over 1 to G stored (activation, weight) bits."""
    fields = np.array(list(schedules(array, workload, widest).values())).T
    compute, traffic = fields[0] - fields[1], fields[-2:].sum(axis=0)
    cycles = np.stack([compute, fields[0], traffic / array.dram_bits_per_cycle]).reshape(3, widest, widest)
    return cycles, energy_pj(array, compute, fields[2:]).reshape(3, widest, widest)


def charged(costs: FloatArray) -> FloatArray:
    """Return `costs` [G, G] over ever wider (activation, weight) modes, made monotone; equal pairs that are monotone stay as they are."""
    equal, wider = np.maximum.accumulate(costs.diagonal()), np.maximum.outer(np.arange(len(costs)), np.arange(len(costs)))
    capped = np.minimum(costs, equal[wider])
    np.fill_diagonal(capped, equal)
    monotone: FloatArray = np.maximum.accumulate(np.maximum.accumulate(capped, axis=0), axis=1)
    return monotone


def _split(parts: FloatArray, total: FloatArray) -> FloatArray:
    """Scale `parts` [3, G, G] to `total` [G, G], in whole units of 2^-55 J: sums of parts are exact, so equal totals stay equal."""
    units, whole = np.rint(parts * (total / parts.sum(axis=0)) / _UNIT_J), np.rint(total / _UNIT_J)
    units[-1] = whole - units[:-1].sum(axis=0)
    joules: FloatArray = units * _UNIT_J
    return joules


MODEL = Model(
    BitFusionCompute,
    build,
    "least cycles over tiles and loop orders: compute + max(0, DRAM - compute) + first fill + last drain",
    {
        "schedules": "hw_models.validation.bitfusion:rows_of_schedules",
        "networks": "hw_models.validation.bitfusion:network_totals",
    },
)
