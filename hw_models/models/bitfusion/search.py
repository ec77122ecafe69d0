"""The schedule of Bit Fusion: of all tiles and loop orders the one with the least cycles, then the least energy.

Work is cut into tiles of b examples, o x o outputs, ic input and oc output channels, whose three operands each fit half of their
buffer. Five loops run over the tiles (batch, output rows, output columns, input channels, output channels), in any order. From the
inside out, a loop multiplies the traffic of an operand where the operand depends on it; a loop that it does not depend on is free as
long as all that the inner loops touched is still in the buffer; from the first misfit on every loop multiplies.

    cycles = compute + max(0, ceil(mid / bw) - compute) + ceil(first / bw) + ceil(last / bw)

first: the largest resident footprints of the three operands, filled before the array can start; last: that of the output, drained at
the end; mid: all other traffic, hidden behind compute where it can be. Outputs are 32 bits, and count as read and written. Footprints,
traffic and buffer accesses are in STORED bits (any from 1 on); the fused width only sets how many products a cycle makes.
The search is exact: tiles whose lower bound exceeds the best schedule found so far are left out, nothing else is.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from hw_models.models.bitfusion.machine import Array, Floats, Ints, LayerWorkload, fusion
from quant_core.util.errors import InputError

OUT_BITS = 32
BATCH, ROW, COLUMN, IN, OUT = range(5)
DEPENDS = ((BATCH, ROW, COLUMN, IN), (IN, OUT), (BATCH, ROW, COLUMN, OUT))  # activations, weights, outputs
_FIRST = 16

FIELDS = (
    "cycles",
    "stall_cycles",
    "wbuf_read_bits",
    "wbuf_write_bits",
    "ibuf_read_bits",
    "ibuf_write_bits",
    "obuf_read_bits",
    "obuf_write_bits",
    "dram_read_bits",
    "dram_write_bits",
)


@dataclass(frozen=True, eq=False)
class Tiles:
    """T ways to cut some workload, under one pair of stored bits, that fit the buffers.

    Attributes:
        trips: [5, T] tiles per loop.
        foot: [3, T] bits of one tile of activations, weights, outputs.
        compute: [T] cycles of the arithmetic of all tiles.
        macs: [T] multiply-accumulates of all tiles, padding of the last tiles included.
        once: [3, T] bits of every operand counted once per element (activations, weights), outputs once per input-channel tile.
    """

    trips: Ints
    foot: Ints
    compute: Ints
    macs: Ints
    once: Ints


def sizes(extent: int) -> list[int]:
    """Return the tile sizes of an extent: powers of two, and the extent itself."""
    return [1 << k for k in range((extent - 1).bit_length())] + [extent]


def cut(array: Array, workload: LayerWorkload, a: int, w: int) -> Tiles:
    """Return every way to cut `workload` whose tiles fit, for `a` and `w` stored bits.

    Raises:
        InputError: not even the smallest tile fits.
    """
    b, h, v, ic, oc = _grid(array, workload)
    (product,), (passes,) = fusion(np.array([a]), np.array([w]))
    lanes, taps, columns = array.rows * int(product), workload.taps, -(-oc // array.cols)
    window = h * v * taps if workload.im2col else _reach(h, workload, 0) * _reach(v, workload, 1)
    acts, weights = window * ic * b * a, -(-taps * ic // lanes) * lanes * oc * w
    foot = np.stack([acts, weights, h * v * columns * array.cols * b * OUT_BITS])
    extents = (workload.batch, workload.height, workload.width, workload.in_channels, workload.out_channels)
    trips = np.stack([-(-extent // size) for extent, size in zip(extents, (b, h, v, ic, oc), strict=True)])
    count, outputs = trips.prod(axis=0), b * h * v * oc
    steps = -(-taps * ic // lanes) if workload.im2col else taps * -(-ic // lanes)
    once = np.stack([acts, taps * ic * oc * w, outputs * OUT_BITS]) * count
    fits = (foot <= np.array(array.half_bits)[:, None]).all(axis=0)
    if not fits.any():
        raise InputError(f"{workload} at {w}/{a} bits: not even the smallest tile fits half of the buffers of {array}; give larger ones.")
    cycles, macs = b * h * v * columns * steps * int(passes) * count, outputs * taps * ic * count
    return Tiles(trips[:, fits], foot[:, fits], cycles[fits], macs[fits], once[:, fits])


def _grid(array: Array, workload: LayerWorkload) -> tuple[Ints, ...]:
    """Return the tile sizes, each [T]: examples, output rows and columns (square tiles, cropped to the map), input and output channels."""
    by_column = [min(array.cols * size, workload.out_channels) for size in sizes(-(-workload.out_channels // array.cols))]
    channels = sizes(workload.out_channels) if workload.im2col else by_column
    axes = (sizes(workload.batch), sizes(max(workload.height, workload.width)), sizes(workload.in_channels), channels)
    b, o, ic, oc = (grid.ravel() for grid in np.meshgrid(*(np.array(axis, dtype=np.int64) for axis in axes), indexing="ij"))
    return b, np.minimum(o, workload.height), np.minimum(o, workload.width), ic, oc


def _reach(outputs: Ints, workload: LayerWorkload, axis: int) -> Ints:
    """Return the inputs along one axis that `outputs` adjacent outputs see."""
    return (workload.kernel[axis] - 1) * workload.dilation[axis] + 1 + (outputs - 1) * workload.stride[axis]


def orders(workload: LayerWorkload) -> Ints:
    """Return the loop orders [R, loops], innermost first, that can differ: loops of one trip and the twins of a square map left out."""
    extents = (workload.batch, workload.height, workload.width, workload.in_channels, workload.out_channels)
    loops = [loop for loop, extent in enumerate(extents) if extent > 1] or [BATCH]
    every = permutations(loops)
    if workload.height == workload.width > 1:
        return np.array([order for order in every if order.index(ROW) < order.index(COLUMN)], dtype=np.int64)
    return np.array(list(every), dtype=np.int64)


def bound(array: Array, tiles: Tiles) -> Ints:
    """Return [T] cycles that no loop order can be below: every operand fetched once, only one tile of each resident."""
    bw, total = array.dram_bits_per_cycle, tiles.foot.sum(axis=0)
    least = sum(_times(tiles, t) * (2 if t == 2 else 1) for t in range(3))
    least_cycles: Ints = np.maximum(tiles.compute + -(-total // bw) + -(-tiles.foot[2] // bw), -(-least // bw))
    return least_cycles


def _times(tiles: Tiles, operand: int) -> Ints:
    bits: Ints = tiles.foot[operand] * tiles.trips[list(DEPENDS[operand])].prod(axis=0)
    return bits


def walk(array: Array, tiles: Tiles, pick: Ints, order: Ints) -> tuple[Ints, Ints]:
    """Return the traffic and the largest resident footprint of the three operands, both [3, P, R], for tiles `pick` [P]."""
    trips = tiles.trips[:, pick].T[:, order]  # [P, R, loops]
    traffic, resident = (np.empty((3, len(pick), len(order)), dtype=np.int64) for _ in range(2))
    for operand, half in enumerate(array.half_bits):
        size = np.broadcast_to(tiles.foot[operand, pick][:, None], trips.shape[:2]).copy()
        moved, inside = size.copy(), np.ones(trips.shape[:2], dtype=np.bool_)
        depends = np.isin(order, DEPENDS[operand])
        for step in range(order.shape[1]):
            trip, needs = trips[:, :, step], depends[:, step]
            moved *= np.where(needs | ~inside, trip, 1)
            grown = size * trip
            fits = inside & (grown <= half)
            size = np.where(needs & fits, grown, size)
            inside = np.where(needs, fits, inside)
        traffic[operand], resident[operand] = moved, size
    return traffic, resident


def schedule(array: Array, workload: LayerWorkload, a: int, w: int) -> tuple[int, ...]:
    """Return the `FIELDS` of the best schedule for operands stored at `a` and `w` bits.

    Raises:
        InputError: not even the smallest tile fits.
    """
    tiles = cut(array, workload, a, w)
    least = bound(array, tiles)
    order = orders(workload)
    first = np.argsort(least, kind="stable")[:_FIRST]
    reached = _cycles(array, tiles, first, *walk(array, tiles, first, order)).min()
    pick = np.flatnonzero(least <= reached)
    traffic, resident = walk(array, tiles, pick, order)
    cycles = _cycles(array, tiles, pick, traffic, resident)
    where, which = np.nonzero(cycles == cycles.min())
    bits = buffer_bits(tiles, pick[where], traffic[:, where, which], a, w)
    energy = energy_pj(array, tiles.compute[pick[where]], bits).sum(axis=0)
    best = int(energy.argmin())
    total = int(cycles.min())
    return total, total - int(tiles.compute[pick[where[best]]]), *(int(figure) for figure in bits[:, best])


def _cycles(array: Array, tiles: Tiles, pick: Ints, traffic: Ints, resident: Ints) -> Ints:
    """Return [P, R] cycles in all."""
    bw, compute = array.dram_bits_per_cycle, tiles.compute[pick][:, None]
    first, last = resident.sum(axis=0), resident[2]
    mid = traffic.sum(axis=0) + traffic[2] - first - last
    cycles: Ints = compute + np.maximum(0, -(-mid // bw) - compute) + -(-first // bw) + -(-last // bw)
    return cycles


def buffer_bits(tiles: Tiles, pick: Ints, traffic: Ints, a: int, w: int) -> Ints:
    """Return [8, P] bits read and written, as `FIELDS` from the third on, for tiles `pick` [P] and their traffic [3, P].

    Within a tile one operand stays in the array and moves once; the other two move at every multiply-accumulate. Of the three
    choices the one with the least bits is taken.
    """
    macs, (acts, weights, outputs) = tiles.macs[pick], tiles.once[:, pick]
    stay = np.stack(
        [
            np.stack([acts, macs * w, macs * OUT_BITS]),
            np.stack([macs * a, weights, macs * OUT_BITS]),
            np.stack([macs * a, macs * w, outputs]),
        ]
    )  # [kept operand, operand, P]
    kept = (stay.sum(axis=1) + stay[:, 2]).argmin(axis=0)
    act, weight, out = stay[kept, :, np.arange(len(pick))].T
    read = traffic.sum(axis=0)
    return np.stack([weight, traffic[1], act, traffic[0], out + traffic[2], out + traffic[2], read, traffic[2]])


def energy_pj(array: Array, compute: Ints, bits: Ints) -> Floats:
    """Return [3, P] pJ of core, SRAM, DRAM, for compute cycles [P] and bits [8, P] as of `buffer_bits`."""
    prices = np.array([*array.weight_pj, *array.act_pj, *array.out_pj])
    return np.stack([compute * array.core_pj, prices @ bits[:6], array.dram_pj * bits[6:].sum(axis=0)])
