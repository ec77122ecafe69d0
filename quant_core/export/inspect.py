"""The tensors of a packed file, one row each, for `bitfront inspect FILE`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from quant_core.codecs import Encoded
from quant_core.codecs.packing import unpack_encoded
from quant_core.export.packed_file import Entry, read_packed
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError
from quant_core.util.text import listed


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor of a file.

    Attributes:
        name: of the tensor.
        spec: text form of its `QuantSpec`, or the dtype of a tensor that is not packed.
        shape: of the tensor.
        bytes: that it takes in the file.
        bits_per_element: 8 x bytes / elements; 0.0 for an empty tensor.
        scales: how many scales there are (codebook entries for k-means); 0 where the format has none.
        scale_low, scale_high: the smallest and largest of them (integer scales times their float scale); None where there are none.
    """

    name: str
    spec: str
    shape: tuple[int, ...]
    bytes: int
    bits_per_element: float
    scales: int = 0
    scale_low: float | None = None
    scale_high: float | None = None


def describe(path: Path) -> list[Row]:
    """Return a row for every tensor of a safetensors file, in the order of their names.

    Raises:
        InputError: it does not exist, is no safetensors file, or does not fit its metadata.
    """
    entries, stored, _ = read_packed(path)
    return [_row(name, stored[name], entries.get(name)) for name in sorted(stored)]


def shares(rows: Sequence[Row]) -> str:
    """Return how much of a file is packed, and the largest of the tensors that it holds in float, with the bytes of all of them."""
    floats = sorted((row for row in rows if "float" in row.spec), key=lambda row: -row.bytes)
    left, total = sum(row.bytes for row in floats), sum(row.bytes for row in rows)
    elements = [math.prod(row.shape) for row in rows]
    packed = sum(count for row, count in zip(rows, elements, strict=True) if row not in floats)
    share = 100 * packed / max(sum(elements), 1)
    names = f" ({listed([row.name for row in floats], 4)})" if floats else ""
    return f"packed: {share:.1f} % of the elements; left in float: {left:,} of {total:,} bytes{names}"


def _row(name: str, tensor: Tensor, entry: Entry | None) -> Row:
    size = tensor.numel() * tensor.element_size()
    shape = tuple(tensor.shape) if entry is None else entry.shape
    count = math.prod(shape)
    width = 8.0 * size / count if count else 0.0
    if entry is None:
        return Row(name, str(tensor.dtype).removeprefix("torch."), shape, size, width)
    scales = None
    if count:
        spec = parse(entry.spec)
        try:
            scales = _scales(unpack_encoded(tensor.numpy().tobytes(), spec, entry.coded_shape, channel_axis=entry.channel_axis))
        except InputError as error:
            raise InputError(f"tensor {name!r}: {error}") from None
    if scales is None:
        return Row(name, entry.spec, shape, size, width)
    return Row(name, entry.spec, shape, size, width, scales.numel(), float(scales.min()), float(scales.max()))


def _scales(encoded: Encoded) -> Tensor | None:
    if encoded.scale is None:
        return encoded.codebook
    return encoded.scale if encoded.coarse is None else encoded.scale * encoded.coarse
