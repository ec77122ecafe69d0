"""A quantized weight as ExecuTorch's XNNPACK backend stores it: codes of 4 or 8 bits and scales, all zero points zero.

Read from executorch 1.5.1 (backends/xnnpack/operators/node_visitor.py) and tried:

- Linear layers have kernels of 4 and 8 bits with one scale per row, and of 4 bits in groups, whose scales are bfloat16.
- Convolutions have kernels of 8 bits with one scale per output channel.
- Embeddings are looked up by ExecuTorch's own kernels, of 4 and 8 bits, by row or group.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant_core.export.rows import positive_rows
from quant_core.export.stored import StoredLayer
from quant_core.spec.formats import SCALE_BITS
from quant_core.spec.layer import Layer
from quant_core.spec.quant_spec import QuantSpec

GROUP = 32
"""Groups of XNNPACK's linear layers are a multiple of it."""
_ROUNDED = "ExecuTorch stores the scales of groups in bfloat16; use {0}:e8m0, whose scales stay as they are, or --round-scales"


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """A weight as the file has it.

    Attributes:
        kind: the type of the codes: qcint8, qcint4, qbint4 (in groups), embedding_byte or embedding_4bit.
        codes: int8; of a convolution in the shape of its weight, else [rows, columns].
        scale: float32, [rows], or [rows, blocks] where a row has several.
        block: elements that share a scale; 0 where a row does.
        extra: bytes beyond the format's: of codes and scales in wider types.
    """

    kind: str
    codes: Tensor
    scale: Tensor
    block: int
    extra: float

    @property
    def bits(self) -> int:
        """Bits of a stored code."""
        return 4 if "4" in self.kind else 8

    @property
    def payload(self) -> int:
        """Bytes of codes and scales."""
        codes = self.codes.numel() // (8 // self.bits)
        return codes + self.scale.numel() * (2 if self.kind == "qbint4" else 4)


def refusal(layer: Layer, spec: QuantSpec, *, rounded: bool = False) -> str:
    """Return why a program cannot hold a layer's weight of `spec`, with an alternative, or "" where it can.

    `rounded`: scales may be rounded to the type in which they are stored.
    """
    if spec.is_float:
        return ""
    if layer.weight_only or layer.stack_shape:
        return "ExecuTorch multiplies by packed weights of linear layers and convolutions, this one is read otherwise; keep it in float"
    if spec.format != "int" or spec.granularity not in ("tensor", "channel", "group") or not spec.symmetric or spec.bits > 8:
        return f"ExecuTorch reads no {spec}; use int8:channel, or int4:channel or int4:group32:e8m0 in linear layers"
    if spec.granularity == "group" and not _one_block(layer, spec):
        return _group_refusal(layer, spec, rounded=rounded)
    if layer.kind in ("linear", "embedding"):
        return ""
    if len(layer.kernel) > 2 or (layer.kind == "conv_transpose" and (layer.groups > 1 or len(layer.kernel) != 2)):
        return "XNNPACK has convolutions of one and two axes, and transposed ones of two axes and one group; keep it in float"
    return ""


def _one_block(layer: Layer, spec: QuantSpec) -> bool:
    """Tell whether a row of weights has one scale."""
    return spec.granularity != "group" or spec.block >= layer.weights // max(layer.weight_shape[layer.channel_axis], 1)


def _group_refusal(layer: Layer, spec: QuantSpec, *, rounded: bool) -> str:
    columns = layer.weights // max(layer.weight_shape[layer.channel_axis], 1)
    if layer.kind == "embedding":
        return "" if columns % spec.block == 0 else f"rows of {columns} are no multiple of {spec.block}; use intN:channel"
    if layer.kind != "linear":
        return f"XNNPACK has no convolution with several scales per channel, as in {spec}; use int8:channel"
    if spec.bits > 4:
        return f"XNNPACK's groups have 4 bits, not {spec.bits}; use int4:group{spec.block}:e8m0 or int8:channel"
    if spec.block % GROUP or columns % spec.block:
        return f"XNNPACK's groups are a multiple of {GROUP} that divides the row, here of {columns}; use int4:channel"
    if spec.scale != "e8m0" and not rounded:
        return _ROUNDED.format(f"int{spec.bits}:group{spec.block}")
    return ""


def is_depthwise(layer: Layer) -> bool:
    """Tell whether XNNPACK takes a convolution for a depthwise one: it has one input channel per group."""
    return layer.kind in ("conv", "depthwise") and layer.weight_shape[1] == 1


def stored_weight(layer: StoredLayer) -> StoredWeight:
    """Return a layer's weight as the file has it; rows whose scale is negative (a folded batch norm's) change sign."""
    spec, encoded, shape = layer.policy.weight, layer.encoded, layer.layer.weight_shape
    assert encoded is not None
    assert encoded.scale is not None
    rows, columns = encoded.codes.shape
    single = encoded.scale.shape[1] == 1
    if single:
        codes, scale = positive_rows(encoded)
    else:
        codes, scale = (encoded.codes.to(torch.int16) + encoded.low).to(torch.int8), encoded.scale.float().expand(rows, -1).clone()
    if not single and layer.layer.kind == "linear":
        scale = scale.to(torch.bfloat16).float()
    kind = _kind(layer.layer, spec.bits, single=single, columns=columns)
    if layer.layer.kind not in ("linear", "embedding"):
        axis = layer.layer.channel_axis
        codes = codes.reshape(shape[axis], *shape[:axis], *shape[axis + 1 :]).movedim(0, axis).contiguous()
    made = StoredWeight(kind, codes, scale, 0 if single else spec.block, 0.0)
    modelled = codes.numel() * spec.bits / 8 + encoded.scale.numel() * SCALE_BITS[spec.scale] / 8
    return StoredWeight(kind, codes, scale, made.block, made.payload - modelled)


def code_type(layer: StoredLayer) -> str:
    """Return the type in which a layer's codes are due."""
    rows = layer.layer.weight_shape[layer.layer.channel_axis]
    return _kind(
        layer.layer, layer.policy.weight.bits, single=_one_block(layer.layer, layer.policy.weight), columns=layer.layer.weights // rows
    )


def _kind(layer: Layer, bits: int, *, single: bool, columns: int) -> str:
    narrow = bits <= 4 and columns % 2 == 0
    if layer.kind == "embedding":
        return "embedding_4bit" if narrow else "embedding_byte"
    if layer.kind != "linear" or not narrow:
        return "qcint8"
    return "qcint4" if single else "qbint4"


def packed_codes(layer: StoredLayer) -> bytes:
    """Return the bytes of a layer's codes as the file has them."""
    weight = stored_weight(layer)
    codes = _channels_last(weight.codes, layer.layer)
    if weight.bits == 8:
        return codes.tobytes()
    nibbles = (codes.astype(np.int16) + 8).astype(np.uint8).reshape(len(codes), -1, 2)
    first, second = nibbles[..., 0], nibbles[..., 1]
    low, high = (second, first) if weight.kind == "embedding_4bit" else (first, second)
    return (low | high << 4).tobytes()


def float_bytes(layer: StoredLayer) -> bytes:
    """Return the bytes of a layer's weight in float32 as XNNPACK has them."""
    return _channels_last(layer.weight.detach().float(), layer.layer).tobytes()


def _channels_last(values: Tensor, layer: Layer) -> NDArray[np.generic]:
    """Return the values of a convolution's weight with the channels that its kernel reads last, others as they are."""
    if layer.kind in ("linear", "embedding"):
        return values.contiguous().numpy()
    if layer.kind == "conv_transpose" or (is_depthwise(layer) and len(layer.kernel) == 2):
        values = values.transpose(0, 1)
    return np.ascontiguousarray(values.movedim(1, -1).numpy())
