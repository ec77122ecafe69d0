"""Rows cut into blocks: ranges per block, and per-block figures expanded over the elements. The last block of a row may be short."""

import torch
from torch import Tensor

from quant_core.clipping import ranges
from quant_core.kernels import run
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import InputError


def block_size(spec: QuantSpec, rows: Tensor) -> int:
    """Return the elements of a row that share a scale (the whole row where the granularity has no block)."""
    return min(spec.block, rows.shape[1]) if spec.block else rows.shape[1]


def split(rows: Tensor, block: int) -> list[Tensor]:
    """Return [R, full blocks, block] and, where the last block is short, [R, 1, rest]; parts without elements are left out."""
    full = rows.shape[1] // block * block
    parts = [rows[:, :full].reshape(len(rows), -1, block), rows[:, full:].unsqueeze(1)]
    return [part for part in parts if part.numel()]


def expand_blocks(per_block: Tensor, block: int, columns: int) -> Tensor:
    """Return [R, columns] (or a shape that broadcasts to it) of [R, B]: every block's figure at each of its elements."""
    if per_block.shape[1] == 1:
        return per_block
    return per_block.repeat_interleave(block, dim=1)[:, :columns]


def block_amax(rows: Tensor, block: int) -> Tensor:
    """Return [R, B], the largest magnitude of every block.

    Raises:
        InputError: a value is NaN or infinite.
    """
    if rows.device.type == "cpu":
        return run.block_amax(rows, block)
    return torch.cat([part.abs().amax(dim=2) for part in split(rows, block)], dim=1)


def block_ranges(
    rows: Tensor, spec: QuantSpec, bounds: tuple[Tensor, Tensor] | None, importance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return (lo, hi), [R, B] each ([1, 1] for one scale per tensor), float32, finite, lo <= 0 <= hi unless `bounds` say otherwise.

    Ranges come from `bounds` ([R x B] or one value), else from the clipping of `spec`; a short last block is measured by itself.
    `importance` [R, C] weights the errors of clippings that search.

    Raises:
        InputError: bounds of the wrong shape, not finite, or with lo > hi.
    """
    if bounds is not None:
        return _from_bounds(rows, spec, bounds)
    whole = spec.granularity == "tensor"
    if spec.clipping in ("minmax", "ema") and spec.symmetric:
        amax = block_amax(rows, block_size(spec, rows))
        amax = amax.amax().reshape(1, 1) if whole else amax
        return -amax, amax
    if spec.clipping in ("minmax", "ema") and rows.device.type == "cpu":
        lo, hi = run.block_minmax(rows, block_size(spec, rows))
        return (lo.amin().reshape(1, 1), hi.amax().reshape(1, 1)) if whole else (lo, hi)
    if whole:
        lo, hi = ranges(rows.reshape(1, -1), spec, None if importance is None else importance.reshape(1, -1))
        return lo.reshape(1, 1), hi.reshape(1, 1)
    parts, block = [], block_size(spec, rows)
    weights = [None, None] if importance is None else split(importance, block)
    for part, weight in zip(split(rows, block), weights, strict=False):
        lo, hi = ranges(part.reshape(-1, part.shape[2]), spec, None if weight is None else weight.reshape(-1, part.shape[2]))
        parts.append((lo.reshape(part.shape[:2]), hi.reshape(part.shape[:2])))
    return torch.cat([lo for lo, _ in parts], dim=1), torch.cat([hi for _, hi in parts], dim=1)


def _from_bounds(rows: Tensor, spec: QuantSpec, bounds: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    per_row = -(-rows.shape[1] // block_size(spec, rows))
    shape = (1, 1) if spec.granularity == "tensor" else (len(rows), per_row)
    shaped = []
    for bound in bounds:
        flat = bound.detach().to(rows.device, torch.float32).reshape(-1)
        if flat.numel() not in (1, shape[0] * shape[1]):
            raise InputError(f"bounds of {flat.numel()} values given for {spec}; {shape[0] * shape[1]} scale blocks, or 1, are needed.")
        shaped.append(flat.reshape(shape) if flat.numel() > 1 else flat.reshape(1, 1).expand(shape))
    if not bool(torch.isfinite(torch.stack(shaped)).all()) or bool((shaped[0] > shaped[1]).any()):
        raise InputError(f"bounds for {spec} are not finite or have lo > hi; give finite lo <= hi.")
    return shaped[0], shaped[1]
