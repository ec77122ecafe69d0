"""The linear grid, as torch rounds it: q = clamp(round(x (1/S)) + Z, low, high), y = (q - Z) S, all in float32."""

import numpy as np
import torch
from torch import Tensor

from quant_core.codecs import code_dtype
from quant_core.codecs.blocks import expand_blocks
from quant_core.codecs.qparams import BlockQParams
from quant_core.codecs.rounding import round_steps
from quant_core.codecs.scales import FLOAT_MAX, store_scale
from quant_core.kernels import run
from quant_core.spec.quant_spec import QuantSpec


def integer_range(spec: QuantSpec, signed: bool) -> tuple[int, int]:
    """Return (low, high): two's complement where signed, else [0, 2^bits - 1]."""
    half = 2 ** (spec.bits - 1)
    return (-half, half - 1) if signed else (0, 2 * half - 1)


def lowest(spec: QuantSpec) -> int:
    """Return the integer that code 0 of a weight stands for."""
    return integer_range(spec, spec.symmetric)[0]


def scale_ceiling(spec: QuantSpec, signed: bool) -> float:
    """Return the largest scale whose largest multiple is finite."""
    return FLOAT_MAX / 2.0**spec.bits * (2.0 if signed else 1.0) * (1.0 - 2.0**-20)


def make_grid(spec: QuantSpec, lo: Tensor, hi: Tensor, block: int) -> BlockQParams:
    """Return the grid of ranges [lo, hi].

    Symmetric: c = max(|lo|, |hi|), S = c / max(1, 2^(bits-1) - 1), Z = 0; where every lo >= 0 and some hi > 0 (an unsigned activation) the
    integers are [0, 2^bits - 1] and S = hi / (2^bits - 1). Affine (Jacob et al., CVPR 2018, section 2.1): the range is widened to contain
    0, S = (hi - lo) / (2^bits - 1), Z = round(-lo / S), clamped. S is rounded to its storage before Z and the codes are computed; an empty
    range gives S = 1, and S stays between 2^-126 and the largest number whose multiples are finite.
    """
    if spec.symmetric:
        signed = not (bool((lo >= 0).all()) and bool((hi > 0).any()))
        low, high = integer_range(spec, signed)
        scale = store_scale(torch.maximum(lo.abs(), hi.abs()) / max(1, high), spec.scale, scale_ceiling(spec, signed))
        return BlockQParams(scale, torch.zeros_like(scale), low, high, block)
    lo, hi = lo.clamp(max=0.0), hi.clamp(min=0.0)
    low, high = integer_range(spec, signed=False)
    scale = store_scale((hi - lo) / high, spec.scale, scale_ceiling(spec, signed=False))
    zero_point = (-(lo / scale).round()).clamp(low, high) + 0.0
    return BlockQParams(scale, zero_point, low, high, block)


def apply_grid(rows: Tensor, grid: BlockQParams) -> Tensor:
    """Return the values on the grid nearest to `rows`, float32."""
    columns = rows.shape[1]
    zero_point = expand_blocks(grid.zero_point, grid.block, columns)
    integers = (rows * expand_blocks(grid.scale.reciprocal(), grid.block, columns)).round() + zero_point
    return (integers.clamp(grid.quant_min, grid.quant_max) - zero_point) * expand_blocks(grid.scale, grid.block, columns)


def write_grid(rows: Tensor, grid: BlockQParams, out: Tensor) -> None:
    """Write `apply_grid(rows)` to `out` by a compiled loop; contiguous float32 rows on the CPU.

    Raises:
        InputError: a value of `rows` is NaN or infinite.
    """
    from quant_core.kernels import fused

    block = grid.block
    if grid.scale.numel() == 1:
        rows, block = rows.view(1, -1), rows.numel()
        rows = run.rebalance_rows(rows, 16)
    scale, zero_point = grid.scale.contiguous(), grid.zero_point.contiguous()
    grids = (figure.numpy() for figure in (scale.reciprocal(), scale, zero_point))
    run.write(fused.linear, rows, out.view(rows.shape), *grids, np.float32(grid.quant_min), np.float32(grid.quant_max), block)


def to_codes(rows: Tensor, grid: BlockQParams, spec: QuantSpec, generator: torch.Generator | None) -> Tensor:
    """Return the codes q - low of `rows` [R, C]."""
    if spec.bits <= 8 and spec.rounding != "stochastic" and _in_loops(rows, grid):
        from quant_core.kernels import codes as loops

        codes = torch.empty(rows.shape, dtype=torch.uint8, device=rows.device)
        grids = (figure.contiguous().numpy() for figure in (grid.scale.reciprocal(), grid.zero_point))
        run.over_rows(
            loops.to_codes, rows.numpy(), codes.numpy(), *grids, np.float32(grid.quant_min), np.float32(grid.quant_max), grid.block
        )
        return codes
    columns = rows.shape[1]
    steps = rows * expand_blocks(grid.scale.reciprocal(), grid.block, columns)
    integers = round_steps(steps, spec, generator) + expand_blocks(grid.zero_point, grid.block, columns)
    return (integers.clamp(grid.quant_min, grid.quant_max) - grid.quant_min).to(code_dtype(spec.bits))


def to_values(codes: Tensor, grid: BlockQParams) -> Tensor:
    """Return (code + low - Z) S, float32."""
    if codes.dtype == torch.uint8 and _in_loops(codes, grid):
        from quant_core.kernels import codes as loops

        values = torch.empty(codes.shape, device=codes.device)
        grids = (figure.contiguous().numpy() for figure in (grid.scale, grid.zero_point))
        run.over_rows(loops.to_values, codes.numpy(), values.numpy(), *grids, np.float32(grid.quant_min), grid.block)
        return values
    columns = codes.shape[1]
    integers = codes.to(torch.float32) + grid.quant_min - expand_blocks(grid.zero_point, grid.block, columns)
    return integers * expand_blocks(grid.scale, grid.block, columns)


def _in_loops(rows: Tensor, grid: BlockQParams) -> bool:
    """Tell whether the compiled loops take them: on the CPU, without gradients, the grids one or as many as the rows."""
    tensors = (rows, grid.scale, grid.zero_point)
    plain = all(type(part) is Tensor and part.device.type == "cpu" and not part.requires_grad for part in tensors)
    return plain and rows.is_contiguous() and len(grid.scale) in (1, len(rows))
