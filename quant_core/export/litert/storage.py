"""A quantized weight as LiteRT stores it: codes of 2, 4 or 8 bits and one scale per channel, all zero points zero.

Measured with ai-edge-litert 2.3.0 on a CPU with AVX-512 VNNI:

- XNNPACK has kernels of 2, 4 and 8 bits for linear layers. Embeddings are looked up in 4 and 8 bits.
- Convolutions have kernels of 8 bits in XNNPACK. Those of 4 bits are LiteRT's own and slower than float32. It takes files with
  convolutions of 2 bits and computes something else, without an error: they are never written.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quant_core.export.constants import finer
from quant_core.export.rows import positive_rows
from quant_core.export.stored import StoredLayer
from quant_core.spec.formats import SCALE_BITS
from quant_core.spec.layer import Layer
from quant_core.spec.quant_spec import QuantSpec

STEPS = 2**30
"""Of a bias in int32, with as much room for products."""


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """A weight as the file has it.

    Attributes:
        kind: INT8, INT4 or INT2.
        codes: int8, in the shape that the file has.
        scale: float32, one per channel.
        axis: of `codes`, along which the channels run.
        order: axis of `codes`, without one of length 1 that lines have more -> axis of torch's weight.
        extra: bytes beyond the format's: of codes and scales in wider types.
        coarser: channels whose codes lost low bits, see `_with_room`.
    """

    kind: str
    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    axis: int
    order: tuple[int, ...]
    extra: float
    coarser: int

    @property
    def data(self) -> NDArray[np.uint8]:
        """The bytes of the codes; of several codes in a byte the first one lies low."""
        bits = self.bits
        flat = self.codes.reshape(-1).view(np.uint8)
        if bits == 8:
            return flat
        lanes = (flat & (2**bits - 1)).reshape(-1, 8 // bits) << np.arange(0, 8, bits, dtype=np.uint8)
        packed: NDArray[np.uint8] = lanes.sum(axis=1, dtype=np.uint8)
        return packed

    @property
    def bits(self) -> int:
        """Bits of a stored code."""
        return int(self.kind.removeprefix("INT"))

    @property
    def payload(self) -> int:
        """Bytes of codes and scales."""
        return self.data.nbytes + self.scale.nbytes


def refusal(layer: Layer, spec: QuantSpec) -> str:
    """Return why a file cannot hold a layer's weight of `spec`, with an alternative, or "" where it can."""
    if spec.is_float:
        return ""
    if layer.weight_only or layer.stack_shape:
        return "LiteRT multiplies by codes of linear layers and convolutions, this weight is read otherwise; keep it in float"
    if len(layer.kernel) > 2:
        return f"LiteRT has convolutions of codes over one and two axes, not over {len(layer.kernel)}; keep it in float"
    single = spec.granularity in ("tensor", "channel") or (spec.granularity == "group" and spec.block >= _columns(layer))
    if spec.format != "int" or not single or not spec.symmetric or spec.bits > 8:
        return f"LiteRT reads no {spec}; use int8:channel, or int4:channel in linear layers"
    return ""


def _columns(layer: Layer) -> int:
    return layer.weights // max(layer.weight_shape[layer.channel_axis], 1)


def shared_owners(stored: Iterable[StoredLayer]) -> frozenset[str]:
    """Return the layers whose weight other layers have, too: its codes are in the file once, as all of them take them."""
    return frozenset(layer.layer.tied_to for layer in stored if layer.layer.tied_to)


def code_type(layer: Layer, bits: int, *, shared: bool = False) -> str:
    """Return the type in which codes of so many bits are stored."""
    columns = _columns(layer)
    if bits <= 2 and layer.kind == "linear" and columns % 4 == 0 and not shared:
        return "INT2"
    return "INT4" if bits <= 4 and layer.kind in ("linear", "embedding") and columns % 2 == 0 else "INT8"


def order(layer: Layer) -> tuple[int, ...]:
    """Return torch's axes of a layer's weight in the order of the file: what is multiplied lies together."""
    shape = layer.weight_shape
    if layer.kind in ("linear", "embedding"):
        return (0, 1) if layer.channel_axis == 0 else (1, 0)
    spatial = tuple(range(2, len(shape)))
    by_channel = layer.groups > 1 and shape[1] == 1
    return (1, *spatial, 0) if by_channel or layer.kind == "conv_transpose" else (0, *spatial, 1)


def stored_weight(layer: StoredLayer, *, shared: bool = False) -> StoredWeight:
    """Return a layer's weight as the file has it; `shared`: with other layers.

    Of layers with quantized inputs, codes of few bits in a wider type are multiplied by 2^k, their scales divided: the same weights, and
    finer steps of biases.
    """
    spec, encoded, shape, axis = layer.policy.weight, layer.encoded, layer.layer.weight_shape, layer.layer.channel_axis
    assert encoded is not None
    assert encoded.scale is not None
    rows, scales = positive_rows(encoded)
    codes, scale = rows.numpy(), scales.numpy()
    kind, axes = code_type(layer.layer, spec.bits, shared=shared), order(layer.layer)
    coarser = 0
    if layer.grid is not None and not shared:
        if kind == "INT8" and (more := finer(spec, encoded)):
            codes, scale = codes << more, scale / np.float32(2**more)
        codes, scale, coarser = _with_room(layer, codes, _of_others(codes, scale))
    moved = np.moveaxis(codes.reshape(shape[axis], *shape[:axis], *shape[axis + 1 :]), 0, axis).transpose(axes)
    if moved.ndim == 3:
        moved = moved[:, None]
    made = StoredWeight(kind, np.ascontiguousarray(moved), scale, (moved.ndim - 1) * (axes[-1] == axis), axes, 0.0, coarser)
    modelled = codes.size * spec.bits / 8 + encoded.scale.numel() * SCALE_BITS[spec.scale] / 8
    return replace(made, extra=made.payload - modelled)


def _of_others(codes: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return scales in which rows of zeros, which any scale gives, have that of the middle row: their biases come in its steps."""
    zeros = (codes == 0).all(axis=1)
    return scale if zeros.all() else np.where(zeros, np.median(scale[~zeros]), scale).astype(np.float32)


def _with_room(
    layer: StoredLayer, codes: NDArray[np.int8], scale: NDArray[np.float32]
) -> tuple[NDArray[np.int8], NDArray[np.float32], int]:
    """Return codes and scales under which biases are at most `STEPS` steps of input scale x weight scale, and how many channels changed.

    A batch norm may leave a channel that is its bias and next to no weights. Its codes lose k low bits, its scale is multiplied by 2^k:
    the products change by less than 1e-4 of the bias.
    """
    if layer.grid is None or layer.bias is None:
        return codes, scale, 0
    steps = layer.bias.detach().abs().double().numpy() / (scale.astype(np.float64) * layer.grid[0])
    bits = np.ceil(np.log2(np.maximum(steps / STEPS, 1.0)))
    if not bits.any():
        return codes, scale, 0
    factor = 2.0**bits
    return np.rint(codes / factor[:, None]).astype(np.int8), (scale * factor).astype(np.float32), int((bits > 0).sum())
