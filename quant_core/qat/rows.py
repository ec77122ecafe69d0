"""Weights seen as rows [output channels, everything else], and back."""

from dataclasses import replace

import torch
from torch import Tensor

from quant_core.codecs import codec
from quant_core.codecs.blocks import block_size, expand_blocks
from quant_core.codecs.qparams import BlockQParams
from quant_core.codecs.quantize import as_rows, encode
from quant_core.spec.quant_spec import QuantSpec


def from_rows(rows: Tensor, like: Tensor, channel_axis: int) -> Tensor:
    """Return `rows` [C, everything else] in the shape of `like` and its dtype (masks stay masks), whose `channel_axis` they run along."""
    axis = channel_axis % like.dim()
    moved = (like.shape[axis], *like.shape[:axis], *like.shape[axis + 1 :])
    rows = rows if rows.dtype == torch.bool else rows.to(like.dtype)
    return rows.reshape(moved).movedim(0, axis)


def blocks(weight: Tensor, spec: QuantSpec, channel_axis: int) -> tuple[Tensor, int]:
    """Return `weight` as rows [R, C], float32, and how many columns share a scale."""
    rows = as_rows(weight, spec, channel_axis)
    return rows, block_size(spec, rows)


def per_block(rows: Tensor, block: int, shape: torch.Size) -> Tensor:
    """Return the sums of `rows` [R, C] over the blocks of `shape` [R or 1, B]."""
    if shape[0] == 1 and len(rows) > 1:
        return rows.sum().reshape(1, 1)
    missing = -rows.shape[1] % block
    return torch.nn.functional.pad(rows, (0, missing)).reshape(len(rows), -1, block).sum(dim=2)


def inside(rows: Tensor, grid: BlockQParams) -> Tensor:
    """Return the mask of torch, [R, C]: True where round(x / S) + Z lies within the codes."""
    columns = rows.shape[1]
    codes = (rows * expand_blocks(grid.scale.reciprocal(), grid.block, columns)).round_() + expand_blocks(
        grid.zero_point, grid.block, columns
    )
    return (codes >= grid.quant_min) & (codes <= grid.quant_max)


def unsaturated(x: Tensor, spec: QuantSpec, channel_axis: int) -> Tensor:
    """Return the mask of values of `x` between those of the smallest and the largest code of its block, the shape of `x`.

    For formats whose block scale follows from the values themselves: vectors, micro-exponents, minifloats.
    """
    encoded = encode(x, spec, channel_axis=channel_axis)
    decode, rows = codec(spec).decode, as_rows(x, spec, channel_axis)
    offset_binary = spec.format in ("int", "mxint8")
    top = 2**spec.bits - 1 if offset_binary else 2 ** (spec.bits - 1) - 1
    largest = decode(replace(encoded, codes=torch.full_like(encoded.codes, top)), spec)
    smallest = decode(replace(encoded, codes=torch.zeros_like(encoded.codes)), spec) if offset_binary else -largest
    return from_rows((rows >= smallest) & (rows <= largest), x, channel_axis)
