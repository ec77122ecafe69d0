"""The Bit Fusion array (Sharma et al., ISCA 2018) and the workload that it runs, as plain numbers: footprints, cycles, energies.

N x M fusion units hold 16 2-bit multipliers each, which fuse into PF = floor(8 / a) floor(8 / w) products of a x w bits per cycle.
The N PF products of a column are summed, so N PF input channels and M output channels are worked on at once. Only the products run at
the fused width: operands are stored, moved and read at their own bits (1 bit runs as 2, but 1 is stored).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant_core.spec.layer import Layer

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Array:
    """A machine: array, DRAM bandwidth, buffers, energies.

    Attributes:
        rows, cols: N x M fusion units; rows sum over input channels, columns are output channels.
        dram_bits_per_cycle: DRAM bandwidth.
        act_bytes, weight_bytes, out_bytes: the three buffers; each is double buffered, so half of it holds the tile that is worked on.
        core_pj: of the whole array, per compute cycle.
        act_pj, weight_pj, out_pj: (read, write) of one bit of each buffer.
        dram_pj: of one bit read from or written to DRAM.
    """

    rows: int
    cols: int
    dram_bits_per_cycle: int
    act_bytes: int
    weight_bytes: int
    out_bytes: int
    core_pj: float
    act_pj: tuple[float, float]
    weight_pj: tuple[float, float]
    out_pj: tuple[float, float]
    dram_pj: float

    @property
    def half_bits(self) -> tuple[int, int, int]:
        """Bits of the half buffer of activations, weights, outputs."""
        return self.act_bytes * 4, self.weight_bytes * 4, self.out_bytes * 4


@dataclass(frozen=True, slots=True)
class LayerWorkload:
    """One convolution of a batch; a matrix product is one with 1 x 1 kernel and map.

    Attributes:
        height, width: of the output map.
        kernel, stride, dilation: (vertical, horizontal).
        im2col: input windows are unrolled, so that the array sums over kernel x input channels (an image of few channels).
    """

    batch: int
    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    im2col: bool = False

    @property
    def taps(self) -> int:
        """Elements of the kernel."""
        return self.kernel[0] * self.kernel[1]


def native_bits(bits: Ints) -> Ints:
    """Return the fused width that the array runs `bits` as: 1 as 2, 3 as 4, 5 to 7 as 8, more in passes of 8."""
    eights = -(-bits // 8) * 8
    return np.where(bits <= 2, 2, np.where(bits <= 4, 4, eights))


def fusion(a: Ints, w: Ints) -> tuple[Ints, Ints]:
    """Return (products per cycle of a fusion unit, passes), for operands stored at `a` and `w` bits."""
    a, w = native_bits(a), native_bits(w)
    passes = -(-a // 8) * -(-w // 8)
    return (8 // np.minimum(a, 8)) * (8 // np.minimum(w, 8)), passes


def workload_of(layer: Layer, batch: int, im2col_channels: int) -> tuple[LayerWorkload, int]:
    """Return the workload of one call of a layer and how often it runs: groups run one after the other.

    Rows of a linear layer join the batch; a transposed convolution is the product that gives every input pixel its taps.
    A map or kernel of one dimension is one row; of three, the first two are folded into the vertical one.
    """
    groups = layer.groups
    ci, co = layer.in_channels // groups, layer.out_channels // groups
    if layer.kind == "linear":
        return LayerWorkload(batch * math.prod(layer.out_size), 1, 1, ci, co), groups
    if layer.kind == "conv_transpose":
        height, width = _plane(layer.in_size)
        return LayerWorkload(batch, height, width, ci, co * math.prod(layer.kernel)), groups
    height, width = _plane(layer.out_size)
    kernel, stride, dilation = _plane(layer.kernel), _plane(layer.stride), _plane(layer.dilation)
    few = groups == 1 and ci <= im2col_channels
    return LayerWorkload(batch, height, width, ci, co, kernel, stride, dilation, few and math.prod(layer.kernel) > 1), groups


def _plane(sizes: tuple[int, ...]) -> tuple[int, int]:
    return math.prod(sizes[:-1]), sizes[-1] if sizes else 1
