"""Block scales of least squared error, for OCP MX and NVFP4: the same bits and the same decoder as the scales of the largest magnitude.

A format's own rule makes the scale of the largest value of a block. Scales near by may fit better: a larger one has E2M1's 4 for the
largest value, beside which the numbers lie closer than beside 6 (Cook et al., "Four Over Six", arXiv 2512.02010, try these two), and a
smaller one cuts it for the others' sake. `quant_core.kernels.scale_search` gives the same bits as the definition here.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quant_core.kernels import run

LOWEST, BEYOND = 2.0**-79, 2.0**81
"""Blocks with a largest magnitude out of [LOWEST, BEYOND) keep the format's own scale: float32 does not hold their inverse scales."""


@dataclass(frozen=True, eq=False)
class ScaleSearch:
    """The scales that a block may have.

    Attributes:
        table: [T] float32, ascending; every one is multiplied by `coarse`.
        coarse: the tensor's scale; 1.0 where there is none.
        low, high: the smallest and the largest place in `table` that is legal.
        offsets: how many places from the format's own scale to try, 0 first; of equal errors the first counts.
        block: elements of a block, 16 or 32.
        mantissa, emin, largest: mantissa bits, smallest exponent and largest value of the elements.
        emax: of powers of two, the largest exponent of the elements; -1 for E4M3 scales.
        signed_zero: whether -0 is an element.
    """

    table: Tensor
    coarse: float
    low: int
    high: int
    offsets: tuple[int, ...]
    block: int
    mantissa: int
    emin: int
    largest: float
    emax: int = -1
    signed_zero: bool = True


def best_index(rows: Tensor, amax: Tensor, index: Tensor, how: ScaleSearch, importance: Tensor | None = None) -> Tensor:
    """Return the places [R, B], int32, in `how.table` of the scales with the least squared error of every block of `rows` [R, C].

    Args:
        rows: finite float32, contiguous. amax: [R, B], the largest magnitude of every block.
        index: [R, B], the places of the format's own scales.
        importance: [R, C] float32 >= 0, by which squared errors are multiplied.
    """
    if rows.device.type != "cpu":
        usable = (amax == 0) | ((amax >= LOWEST) & (amax < BEYOND))
        return torch.where(usable, defined(rows, index.to(torch.int32), how, importance), index.to(torch.int32))
    best = torch.empty_like(index, dtype=torch.int32)
    _compiled(rows, how, importance, best, rows.new_empty(0, 0))
    return best


def write_best(rows: Tensor, how: ScaleSearch, out: Tensor) -> bool:
    """Write the values of contiguous `rows` on the CPU under the best scales to `out`; False where one is out of range or NaN."""
    return _compiled(rows, how, None, rows.new_empty(0, 0, dtype=torch.int32), out)


def _compiled(rows: Tensor, how: ScaleSearch, importance: Tensor | None, index: Tensor, out: Tensor) -> bool:
    """Run the search; tell whether every block is within range."""
    from quant_core.kernels import scale_search as loops

    weights = None if importance is None else importance.contiguous().numpy()
    scales = (how.table.numpy(), np.float32(how.coarse), how.block, np.array(how.offsets, dtype=np.int32), (how.low, how.high), how.emax)
    element = (how.mantissa, how.emin, how.largest)
    beyond = run.over_rows(loops.search, rows.numpy(), out.numpy(), weights, index.numpy(), *scales, element, how.signed_zero)
    return not any(beyond)


def defined(rows: Tensor, index: Tensor, how: ScaleSearch, importance: Tensor | None) -> Tensor:
    """Return `best_index` in torch, on any device: squares in steps of the scale, summed in the order of the elements, in float32."""
    columns = index.shape[1] * how.block
    magnitudes = _blocks(rows.abs(), columns, how.block)
    weights = None if importance is None else _blocks(importance, columns, how.block)
    table, best, least = how.table.to(rows.device), index, torch.zeros_like(index, dtype=torch.float32)
    first = (table[index.clamp(how.low, how.high).long()] * how.coarse).reciprocal()
    for offset in how.offsets:
        place = (index + offset).clamp(how.low, how.high)
        scale = table[place.long()] * how.coarse
        inverse = scale.reciprocal()
        steps = magnitudes * inverse[..., None]
        squares = (_rounded(steps.clamp(max=how.largest), how) - steps).square()
        squares = squares if weights is None else squares * weights
        error = torch.zeros_like(least)
        for element in squares.unbind(dim=-1):
            error = error + element
        error = error * (scale * first) * (scale * first)
        better = error < least if offset else torch.ones_like(least, dtype=torch.bool)
        best, least = torch.where(better, place, best), torch.where(better, error, least)
    return best


def _blocks(rows: Tensor, columns: int, block: int) -> Tensor:
    """Return [R, B, block], zeros in place of what a short last block lacks."""
    return torch.nn.functional.pad(rows, (0, columns - rows.shape[1])).view(len(rows), -1, block)


def _rounded(values: Tensor, how: ScaleSearch) -> Tensor:
    """Return elements nearest to `values` >= 0, ties to even: adding 1.5 x 2^23 steps rounds to the step."""
    power = (values.contiguous().view(torch.int32) & 0x7F800000).view(torch.float32).clamp(min=2.0**how.emin)
    shift = power * (1.5 * 2.0 ** (23 - how.mantissa))
    return (values + shift) - shift
