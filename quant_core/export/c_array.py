"""A C header with a network's integer weights, scales, biases and a layer table, in the layouts of CMSIS-NN (int8 and int4, NHWC)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quant_core.export.c_integers import fitted
from quant_core.export.c_names import comment, identifiers, string
from quant_core.export.stored import Quantized, StoredLayer
from quant_core.network.parameters import StoredParameter, layer_module
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.util.errors import InputError
from quant_core.util.text import first_fault

KINDS = {"linear": 0, "conv": 1, "depthwise": 2}
_PER_LINE = 24

TYPES = """#include <stddef.h>
#include <stdint.h>

/* acc[o] = bias[o] + (sum((x - in_zero_point) * w) << acc_shift); its value is acc[o] * in_scale * weight_scale[o or 0] / 2^acc_shift.
   An engine that does not shift takes bias[o] >> acc_shift, rounded: with few bits that is coarse.
   x: int8, NHWC, in_low to in_high.
   w: conv [out][kh][kw][in / groups], depthwise [kh][kw][out], linear [out][in]; at 4 bits two per byte, the first low. */
enum { BITFRONT_LINEAR = 0, BITFRONT_CONV = 1, BITFRONT_DEPTHWISE = 2 };
typedef struct {
    const char *name;
    int32_t kind, in_channels, out_channels, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;
    int32_t weight_bits, weight_scales;
    const uint8_t *weights;
    const float *weight_scale;
    const int32_t *bias;
    float in_scale;
    int32_t in_zero_point, in_low, in_high, acc_shift;
} bitfront_layer;
"""

KERNEL = """#include "bitfront_model.h"

/* A plain reference of one layer: x [in_h][in_w][in_channels] -> acc [out_h][out_w][out_channels]; a linear layer has in_h rows. */
static int32_t bitfront_weight(const bitfront_layer *l, size_t i) {
    if (l->weight_bits == 8) return (int8_t)l->weights[i];
    int32_t nibble = (l->weights[i / 2] >> (4 * (i % 2))) & 15;
    return nibble > 7 ? nibble - 16 : nibble;
}

static void bitfront_run(const bitfront_layer *l, const int8_t *x, int32_t in_h, int32_t in_w, int32_t out_h, int32_t out_w, int32_t *acc) {
    const int32_t per_group = l->in_channels / l->groups, outs = l->out_channels / l->groups;
    for (int32_t oy = 0; oy < out_h; oy++)
        for (int32_t ox = 0; ox < out_w; ox++)
            for (int32_t o = 0; o < l->out_channels; o++) {
                int32_t sum = 0;
                for (int32_t ky = 0; ky < l->kernel_h; ky++)
                    for (int32_t kx = 0; kx < l->kernel_w; kx++) {
                        const int32_t y = oy * l->stride_h - l->pad_h + ky * l->dilation_h;
                        const int32_t z = ox * l->stride_w - l->pad_w + kx * l->dilation_w;
                        if (y < 0 || y >= in_h || z < 0 || z >= in_w) continue;
                        for (int32_t c = 0; c < per_group; c++) {
                            const size_t tap = (size_t)ky * l->kernel_w + kx;
                            const size_t w = l->kind == BITFRONT_DEPTHWISE
                                ? tap * l->out_channels + o
                                : ((size_t)o * l->kernel_h * l->kernel_w + tap) * per_group + c;
                            const int32_t value = x[((size_t)y * in_w + z) * l->in_channels + o / outs * per_group + c];
                            sum += (value - l->in_zero_point) * bitfront_weight(l, w);
                        }
                    }
                acc[((size_t)oy * out_w + ox) * l->out_channels + o] = l->bias[o] + sum * ((int32_t)1 << l->acc_shift);
            }
}
"""


@dataclass(frozen=True, eq=False)
class CLayer:
    """One layer in the integers of the header.

    Attributes:
        stored: the quantized layer.
        integers: the weight in its own shape.
        bits: 8 or 4, of the array.
        scales: one, or one per output channel; negative where a batch norm's gain is. Larger than those of the policy where 32 bits
            could not hold the bias beside the channel's own scale.
        bias: int32, in steps of input scale x weight scale / 2^shift.
        shift: the bits that sums have to spare; without them biases would be coarse where the input scale is large.
        offset: taken from the codes of an unsigned input to make them int8.
        padding: before each of the two spatial axes.
    """

    stored: StoredLayer
    integers: NDArray[np.int64]
    bits: int
    scales: NDArray[np.float32]
    bias: NDArray[np.int64]
    shift: int
    offset: int
    padding: tuple[int, int]

    def packed(self) -> NDArray[np.uint8]:
        """Return the bytes of the weight in its CMSIS-NN layout."""
        kind = self.stored.layer.kind
        moved = self.integers
        if kind == "conv":
            moved = moved.transpose(0, 2, 3, 1)
        elif kind == "depthwise":
            moved = moved[:, 0].transpose(1, 2, 0)
        flat = moved.reshape(-1).astype(np.int8).view(np.uint8)
        if self.bits == 8:
            return flat
        padded = np.append(flat, np.zeros(len(flat) % 2, dtype=np.uint8)) & 15
        return (padded[::2] | padded[1::2] << 4).astype(np.uint8)


def c_layers(network: Quantized) -> tuple[CLayer, ...]:
    """Return the layers of a network as integers.

    Args:
        network: without batch norms, see `quant_core.export.norms`.

    Raises:
        InputError: a layer that integer engines for microcontrollers cannot run; every one is named.
    """
    called = [stored for stored in network.stored if stored.layer.calls]
    modules = {stored.layer.name: layer_module(network.base, stored.layer) for stored in called}
    faults = [
        f"layer {stored.layer.name!r}: {fault}"
        for stored in called
        if (fault := refusal(modules[stored.layer.name], stored.layer, stored.policy))
    ]
    if faults:
        raise InputError(f"{first_fault(faults)}.")
    return tuple(_layer(modules[stored.layer.name], stored) for stored in called)


def refusal(module: Any, layer: Layer, policy: LayerPolicy) -> str:
    """Return why integer engines for microcontrollers cannot run a layer under a policy, or ""."""
    weight, activation = policy.weight, policy.activation
    if layer.weight_only or isinstance(module, StoredParameter):
        return "it is a weight that another module reads, for which there is no integer kernel; use onnx or safetensors"
    if module.weight.dtype == torch.bfloat16:
        return "its weight is in bfloat16; float32 is needed, as model.float() gives"
    if layer.kind not in KINDS or len(layer.kernel) not in (0, 2) or layer.channel_axis != 0:
        return f"{type(module).__name__} has no integer kernel; linear, 2-d convolution and depthwise convolution have"
    if layer.kernel and (module.padding_mode != "zeros" or layer.tied_to):
        return f"padding mode {module.padding_mode!r}; zeros are needed"
    if weight.format != "int" or weight.granularity not in ("tensor", "channel") or not weight.symmetric or not 2 <= weight.bits <= 8:
        return f"weight {weight}; int2 to int8, symmetric, by tensor or channel are needed"
    static = activation.format == "int" and activation.granularity == "tensor" and not activation.dynamic
    if not static or activation.bits > 8:
        return f"activation {activation}; a range from calibration of at most 8 bits is needed, as int8:tensor"
    return ""


def _layer(module: Any, stored: StoredLayer) -> CLayer:
    assert stored.encoded is not None
    assert stored.encoded.scale is not None
    assert stored.grid is not None
    scale, zero_point, low, high = stored.grid
    integers = (stored.encoded.codes.numpy().astype(np.int64) + stored.encoded.low).reshape(stored.layer.weight_shape)
    scales = stored.encoded.scale.numpy().reshape(-1)
    bias = np.zeros(stored.layer.out_channels) if stored.bias is None else stored.bias.numpy().astype(np.float64)
    held = fitted(integers, scales, bias, scale, max(high - zero_point, zero_point - low), stored.layer.name)
    bits, offset = 4 if stored.policy.weight.bits <= 4 else 8, 128 if low >= 0 else 0
    return CLayer(stored, held.weights, bits, held.scales, held.bias, held.shift, offset, _padding(module, stored))


def _padding(module: Any, stored: StoredLayer) -> tuple[int, int]:
    if not stored.layer.kernel:
        return 0, 0
    if isinstance(module.padding, str):
        spans = [d * (k - 1) for d, k in zip(stored.layer.dilation, stored.layer.kernel, strict=True)]
        return (spans[0] // 2, spans[1] // 2) if module.padding == "same" else (0, 0)
    return int(module.padding[0]), int(module.padding[1])


def header(layers: Sequence[CLayer], title: str) -> str:
    """Return the text of `bitfront_model.h`; it is ASCII, whatever the layers are called."""
    parts = [f"/* {comment(title)} Written by bitfront. */", "#ifndef BITFRONT_MODEL_H", "#define BITFRONT_MODEL_H", TYPES]
    names = identifiers([layer.stored.layer.name for layer in layers])
    for layer, name in zip(layers, names, strict=True):
        scales = [f"{value:.8e}f" for value in layer.scales]
        bias = [str(value) if value > -(2**31) else "INT32_MIN" for value in layer.bias]
        parts += [
            _array("uint8_t", f"bitfront_{name}_weights", [str(value) for value in layer.packed()]),
            _array("float", f"bitfront_{name}_scales", scales),
            _array("int32_t", f"bitfront_{name}_bias", bias),
        ]
    rows = ",\n".join(_row(layer, name) for layer, name in zip(layers, names, strict=True))
    parts += [f"static const bitfront_layer bitfront_layers[] = {{\n{rows}\n}};", f"enum {{ BITFRONT_LAYERS = {len(layers)} }};", "#endif"]
    return "\n".join(parts) + "\n"


def _row(c_layer: CLayer, name: str) -> str:
    layer, grid = c_layer.stored.layer, c_layer.stored.grid
    assert grid is not None
    kernel, stride, dilation = (value or (1, 1) for value in (layer.kernel, layer.stride, layer.dilation))
    shape = (KINDS[layer.kind], layer.in_channels, layer.out_channels, *kernel, *stride, *c_layer.padding, *dilation, layer.groups)
    numbers = ", ".join(map(str, (*shape, c_layer.bits, len(c_layer.scales))))
    arrays = ", ".join(f"bitfront_{name}_{array}" for array in ("weights", "scales", "bias"))
    codes = ", ".join(str(value - c_layer.offset) for value in grid[1:])
    return f"    {{{string(layer.name)}, {numbers}, {arrays}, {grid[0]:.9e}f, {codes}, {c_layer.shift}}}"


def _array(kind: str, name: str, values: Sequence[str]) -> str:
    lines = [", ".join(values[i : i + _PER_LINE]) for i in range(0, len(values), _PER_LINE)]
    return f"static const {kind} {name}[] = {{\n" + ",\n".join(lines) + "\n};"
