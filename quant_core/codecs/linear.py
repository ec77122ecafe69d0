"""Linear quantization of 1 to 16 bits, symmetric or affine, by tensor, channel, group, token, or vector (see `vector`)."""

import numpy as np
import torch
from torch import Tensor

from quant_core.codecs import Bounds, Codec, Encoded, Field, code_field, vector
from quant_core.codecs.affine import integer_range, lowest, make_grid, scale_ceiling, to_codes, to_values, write_grid
from quant_core.codecs.blocks import block_ranges, block_size
from quant_core.codecs.qparams import BlockQParams
from quant_core.kernels import run
from quant_core.spec.quant_spec import QuantSpec


def grid_of(rows: Tensor, spec: QuantSpec, bounds: Bounds | None) -> BlockQParams:
    """Return the grid that `rows` [R, C] are quantized on."""
    if spec.granularity == "vector":
        return vector.grid_of(rows, spec, bounds)[0]
    lo, hi = block_ranges(rows, spec, bounds)
    return make_grid(spec, lo, hi, block_size(spec, rows))


def encode(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, generator: torch.Generator | None) -> Encoded:
    """Return offset-binary codes [R, C] with scales [R or 1, B] (and zero points where affine)."""
    if spec.granularity == "vector":
        return vector.encode(rows, spec, bounds, generator)
    grid = grid_of(rows, spec, bounds)
    zero_point = None if spec.symmetric else grid.zero_point
    return Encoded(to_codes(rows, grid, spec, generator), grid.quant_min, scale=grid.scale, zero_point=zero_point)


def weighted(rows: Tensor, importance: Tensor, spec: QuantSpec, generator: torch.Generator | None) -> Encoded:
    """Return the codes and scales of `encode` over ranges whose errors are multiplied by `importance` [R, C]."""
    return encode(rows, spec, block_ranges(rows, spec, None, importance), generator)


def decode(encoded: Encoded, spec: QuantSpec) -> Tensor:
    """Return the rows, float32."""
    if spec.granularity == "vector":
        return vector.decode(encoded, spec)
    scale = encoded.scale
    assert scale is not None
    zero_point = torch.zeros_like(scale) if encoded.zero_point is None else encoded.zero_point
    low, high = integer_range(spec, encoded.low < 0)
    return to_values(encoded.codes, BlockQParams(scale, zero_point, low, high, spec.block or encoded.codes.shape[1]))


def layout(spec: QuantSpec, rows: int, columns: int) -> tuple[Field, ...]:
    """Scales, zero points, codes; of vectors: float scales, integer scales, codes."""
    if spec.granularity == "vector":
        return vector.layout(spec, rows, columns)
    blocks = -(-columns // spec.block) if spec.block else 1
    shape = (1, 1) if spec.granularity == "tensor" else (rows, blocks)
    zero_point = () if spec.symmetric else (Field("zero_point", shape, f"u{spec.bits}"),)
    return (Field("scale", shape, spec.scale), *zero_point, code_field(spec, rows, columns))


def fused(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, out: Tensor) -> bool:
    """Write decode(encode(rows)) to `out` by a compiled loop."""
    if spec.granularity == "vector" and vector.fused(rows, spec, bounds, out):
        return True
    if bounds is None and spec.clipping in ("minmax", "ema") and _in_one_pass(rows, spec, out):
        return True
    write_grid(rows, grid_of(rows, spec, bounds), out)
    return True


def _in_one_pass(rows: Tensor, spec: QuantSpec, out: Tensor) -> bool:
    """Measure and quantize each row in turn; False for the shapes that the loops do not know."""
    from quant_core.kernels import ranged

    low, high = (np.float32(end) for end in integer_range(spec, signed=spec.symmetric))
    ceiling = np.float32(scale_ceiling(spec, signed=spec.symmetric))
    if not spec.symmetric and spec.granularity in ("channel", "token", "group"):
        run.write(ranged.affine, rows, out, high, ceiling, ranged.STORAGE[spec.scale], block_size(spec, rows))
        return True
    if not spec.symmetric:
        return False
    if spec.granularity in ("channel", "token"):
        run.write(ranged.by_row, rows, out, low, high, ceiling, ranged.STORAGE[spec.scale])
        return True
    if spec.granularity != "group" or spec.block % 16 or rows.shape[1] % spec.block:
        return False
    rows = run.rebalance_rows(rows, spec.block)
    run.write(ranged.by_group, rows, out.view(rows.shape), low, high, ceiling, ranged.STORAGE[spec.scale], spec.block)
    return True


CODEC = Codec(encode, decode, layout, lowest, fused, weighted)
