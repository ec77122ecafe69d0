"""`bitserial`: an array that multiplies bit planes (BISMO, Umuroglu et al., FPL 2018, arXiv 1806.08862).

A word holds `word_bits` elements of one bit plane; `rows` x `cols` dot-product units each take one word of either operand per
cycle. Per matrix product of M x K x N: kt = ceil(K / word_bits), mt = ceil(M / rows), nt = ceil(N / cols);
    compute = mt nt kt w a,   activations = M kt a,   weights = N kt w,   cycles = max of the three,
w and a the planes of weight and activation. An operand that is not serial is loaded and multiplied whole, so up to `parallel_bits`
of it count as one plane (Stripes: serial activations; UNPU: serial weights; Loom: both). Where a plateau runs a code as a wider one the
planes that are multiplied are those of the wider code, and the planes that are loaded those that are stored.
"""

import math

import numpy as np
from pydantic import Field

from hw_models.device import Device
from hw_models.models import FloatArray, GoldenComparison, IntArray, LayerChoices, LayerCost, LayerModel, Model, compare_points
from hw_models.schema.device_file import Compute, Golden
from quant_core.spec.layer import Layer


class BitSerialCompute(Compute):
    """The array and which operands it takes bit by bit."""

    rows: int = Field(ge=1)
    cols: int = Field(ge=1)
    word_bits: int = Field(ge=1)
    serial_w: bool = True
    serial_a: bool = True
    parallel_bits: int = Field(default=16, ge=1)
    channels_per_word: int = Field(default=16, ge=1)


def build(device: Device) -> LayerModel:
    """Return the model of one layer on the array of `device`."""
    array, seconds, batch = device.compute_as(BitSerialCompute), 1 / device.clock_hz, device.batch

    def cost(layer: Layer, choices: LayerChoices) -> LayerCost:
        compute, _ = layer_cycles(array, layer, choices.w_bits, choices.a_bits, batch)
        _, memory = layer_cycles(array, layer, choices.stored_w_bits, choices.stored_a_bits, batch)
        return LayerCost(compute * seconds, np.maximum(compute, memory) * seconds, memory * seconds)

    return cost


def layer_cycles(array: BitSerialCompute, layer: Layer, w: IntArray, a: IntArray, batch: int) -> tuple[FloatArray, FloatArray]:
    """Return the cycles of arithmetic and of memory of one call, each [K], for bits `w` and `a` [K]."""
    planes_w, planes_a = _planes(w, array.serial_w, array), _planes(a, array.serial_a, array)
    repeats, m, k, n = products(layer, batch, array.channels_per_word)
    words = repeats * -(-k // array.word_bits)
    compute = words * -(-m // array.rows) * -(-n // array.cols) * planes_w * planes_a
    memory = np.maximum(words * m * planes_a, words * n * planes_w)
    return compute.astype(np.float64), memory.astype(np.float64)


def products(layer: Layer, batch: int, channels_per_word: int) -> tuple[int, int, int, int]:
    """Return (how many, M, K, N) of the matrix products that one call of a layer is.

    A linear layer is one product with a row per example; a convolution one per image and group. Depthwise channels share words:
    `channels_per_word` of them form one product, each kernel padded to a multiple of 16.
    """
    ci, co, taps = layer.in_channels // layer.groups, layer.out_channels // layer.groups, math.prod(layer.kernel)
    if layer.kind == "linear":
        return 1, batch * math.prod(layer.out_size), layer.in_channels, layer.out_channels
    if layer.kind == "depthwise":
        sets = -(-layer.out_channels // channels_per_word)
        return batch * sets, math.prod(layer.out_size), channels_per_word * (-(-taps // 16) * 16), channels_per_word
    if layer.kind == "conv_transpose":
        return batch * layer.groups, math.prod(layer.in_size), ci, co * taps
    return batch * layer.groups, math.prod(layer.out_size), taps * ci, co


def _planes(bits: IntArray, serial: bool, array: BitSerialCompute) -> IntArray:
    """Return [K] planes of one operand."""
    return bits if serial else -(-bits // array.parallel_bits)


def peak(device: Device, golden: Golden) -> GoldenComparison:
    """Check the peak of binary operations per second, 2 rows word_bits cols clock_hz (BISMO, section III)."""
    array = device.compute_as(BitSerialCompute)
    operations_per_s = 2 * array.rows * array.word_bits * array.cols * device.clock_hz
    return compare_points(golden, [operations_per_s] * len(golden.points))


MODEL = Model(
    BitSerialCompute, build, "cycles = max(mt nt kt w a, M kt a, N kt w) per matrix product", {"peak": "hw_models.models.bitserial:peak"}
)
