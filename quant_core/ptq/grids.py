"""The values that every weight of a layer may take under a spec whose scales are fixed, and the codes that stand for them."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from quant_core.codecs import Encoded
from quant_core.codecs.codebook import channels_per_book
from quant_core.codecs.quantize import as_rows, decode
from quant_core.network.fold import TRANSPOSED
from quant_core.network.patches import weight_from_rows, weight_rows
from quant_core.spec.quant_spec import QuantSpec


@dataclass(frozen=True, eq=False)
class Grids:
    """The grid of every weight of G groups of O outputs with K inputs: low + step k for 0 <= k <= top, or low + step book[k].

    Attributes:
        low, step: [G, O, K] float32; a step of 0 leaves the one value `low`.
        top: the largest place.
        book: [G x O or 1, top + 1] float32, ascending; None where the values are evenly spaced.
    """

    low: Tensor
    step: Tensor
    top: int
    book: Tensor | None = None

    def values(self, places: Tensor) -> Tensor:
        """Return the values, [G, O, K], at `places` [G, O, K]."""
        if self.book is None:
            return self.low + self.step * places
        flat = places.flatten(0, 1).long()
        return self.low + self.step * self.book.expand(len(flat), -1).gather(1, flat).view(places.shape)

    def nearest(self, values: Tensor) -> Tensor:
        """Return the places, [G, O, K] float32, of the grid values nearest to `values`."""
        down = self.floor(values)
        up = (down + 1).clamp(max=self.top)
        return torch.where(self.values(up) - values < values - self.values(down), up, down)

    def floor(self, values: Tensor) -> Tensor:
        """Return the largest places, [G, O, K] float32, whose values are not above `values`; 0 where all are."""
        steps = torch.where(self.step > 0, (values - self.low) / self.step, torch.zeros_like(values))
        if self.book is None:
            return steps.floor().clamp(0, self.top)
        flat = steps.flatten(0, 1)
        book = self.book.expand(len(flat), -1).contiguous()
        return (torch.searchsorted(book, flat, right=True) - 1).clamp(0, self.top).view(values.shape).float()


def grids_of(module: Any, encoded: Encoded, spec: QuantSpec, shape: tuple[int, ...], channel_axis: int) -> tuple[Grids, Tensor]:
    """Return the grids that the scales or codebooks of `encoded` give a weight of `shape`, and the code of every place, [top + 1].

    Integers are evenly spaced; a codebook is ascending. Of the other formats every value is a scale of its own times an element: the
    elements are what a block of scale 1 decodes to.
    """

    def decoded(code: int) -> Tensor:
        codes = torch.full_like(encoded.codes, code)
        return weight_rows(module, decode(replace(encoded, codes=codes), spec, shape, channel_axis=channel_axis))

    device = encoded.codes.device
    if spec.format == "int":
        top = 2**spec.bits - 1
        low = decoded(0)
        return Grids(low, (decoded(top) - low) / top, top), torch.arange(top + 1, device=device)
    elements, codes = _levels(encoded, spec)
    if spec.format == "kmeans" or spec.clipping == "ttq":
        ones = torch.ones_like(decoded(0))
        return Grids(torch.zeros_like(ones), ones, len(codes) - 1, _by_row(module, elements, spec, len(encoded.codes))), codes
    largest = int(elements[0].argmax())
    step = decoded(int(codes[largest])) / elements[0, largest]
    return Grids(torch.zeros_like(step), step, len(codes) - 1, elements), codes


def _levels(encoded: Encoded, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Return the values of all codes in ascending order, [N, L], under scales of 1 (codebooks and TTQ: as they are), and the codes, [L]."""
    count = 3 if spec.format == "ternary" else 2**spec.bits
    codes = torch.arange(count, device=encoded.codes.device)
    if encoded.codebook is not None:
        return encoded.codebook, codes
    one = torch.ones(1, 1, device=codes.device)
    scale = encoded.scale if spec.clipping == "ttq" else None if encoded.scale is None else one
    shape = (1 if scale is None else len(scale), count)
    micro = None if encoded.micro is None else torch.zeros(shape, dtype=torch.uint8, device=codes.device)
    coarse = None if encoded.coarse is None else one
    unit = replace(encoded, codes=codes.expand(shape).to(encoded.codes.dtype), scale=scale, coarse=coarse, micro=micro)
    values = decode(unit, spec, shape)
    order = torch.sort(values[0], stable=True).indices
    ascending = values[0, order]
    distinct = torch.ones_like(order, dtype=torch.bool)
    distinct[1:] = ascending[1:] > ascending[:-1]  # +0 and -0 are one value
    return values[:, order[distinct]].contiguous(), codes[order[distinct]]


def _by_row(module: Any, elements: Tensor, spec: QuantSpec, rows: int) -> Tensor:
    """Return the books of the rows of `weight_rows`, in their order, from one for all, or from those of the encoded rows."""
    if len(elements) == 1:
        return elements
    per_book = channels_per_book(spec, rows) if spec.format == "kmeans" else 1
    books = elements[torch.arange(rows, device=elements.device) // per_book]
    return books.repeat(module.groups, 1) if isinstance(module, TRANSPOSED) else books


def with_places(module: Any, encoded: Encoded, places: Tensor, codes: Tensor, spec: QuantSpec, channel_axis: int) -> Encoded:
    """Return `encoded` with the codes, of those of `grids_of`, that stand at `places` [G, O, K]."""
    at = weight_from_rows(module, places).to(torch.float32)
    chosen = codes.to(encoded.codes.dtype)[as_rows(at, spec, channel_axis).long()]
    return replace(encoded, codes=chosen.reshape(encoded.codes.shape))
