"""VSQuant (Dai et al., MLSys 2021, section 4): an integer scale per vector under a float scale per channel or tensor."""

import numpy as np
import torch
from torch import Tensor

from quant_core.codecs import Bounds, Encoded, Field, code_field
from quant_core.codecs.affine import integer_range, scale_ceiling, to_codes, to_values
from quant_core.codecs.blocks import block_amax, block_ranges
from quant_core.codecs.qparams import BlockQParams
from quant_core.codecs.scales import FLOAT_MIN
from quant_core.kernels import run
from quant_core.spec.quant_spec import QuantSpec

VECTOR = 16
"""The usual length, the one that the compiled loop knows."""


def _levels(spec: QuantSpec) -> int:
    """Return the largest integer scale."""
    return int(2 ** int(spec.scale[1:]) - 1)


def two_level(amax: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Return (integer scales [R, B], float scales [R or 1, 1]) of vectors whose ranges are [-amax, amax].

    s = top / max(1, 2^(bits-1) - 1), gamma = max(s) / (2^M - 1) over the channel or tensor, s_q = max(1, round(s / gamma)): at least 1,
    where the paper's round to 0 would erase the small vectors beside an outlier. A channel of zeros gets gamma = 1.
    """
    levels = _levels(spec)
    fine = (amax / max(1, 2 ** (spec.bits - 1) - 1)).clamp(max=scale_ceiling(spec, signed=True))
    top = fine.amax(dim=1, keepdim=True) if spec.coarse == "channel" else fine.amax().reshape(1, 1)
    coarse = torch.where(top > 0, (top / levels).clamp(min=FLOAT_MIN), 1.0)
    return (fine / coarse).round().clamp(1, levels), coarse


def _grid(scale: Tensor, coarse: Tensor, spec: QuantSpec, block: int) -> BlockQParams:
    product = scale * coarse
    return BlockQParams(product, torch.zeros_like(product), *integer_range(spec, signed=True), block)


def grid_of(rows: Tensor, spec: QuantSpec, bounds: Bounds | None) -> tuple[BlockQParams, Tensor, Tensor]:
    """Return (grid of the products s_q gamma, s_q, gamma): values are quantized with the scale that decodes them."""
    lo, hi = block_ranges(rows, spec, bounds)
    scale, coarse = two_level(torch.maximum(lo.abs(), hi.abs()), spec)
    return _grid(scale, coarse, spec, spec.block), scale, coarse


def encode(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, generator: torch.Generator | None) -> Encoded:
    """Return offset-binary codes [R, C], integer scales [R, B] and float scales [R or 1, 1]."""
    grid, scale, coarse = grid_of(rows, spec, bounds)
    return Encoded(to_codes(rows, grid, spec, generator), grid.quant_min, scale=scale, coarse=coarse)


def decode(encoded: Encoded, spec: QuantSpec) -> Tensor:
    """Return the rows, float32."""
    assert encoded.scale is not None
    assert encoded.coarse is not None
    return to_values(encoded.codes, _grid(encoded.scale, encoded.coarse, spec, spec.block))


def fused(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, out: Tensor) -> bool:
    """Write decode(encode(rows)) to `out` by one compiled loop; False unless min-max ranges of whole vectors of 16 are asked for."""
    from quant_core.kernels import fused as loops

    if bounds is not None or spec.block != VECTOR or rows.shape[1] % VECTOR or spec.clipping not in ("minmax", "ema"):
        return False
    coarse = 0.0
    if spec.coarse == "tensor":
        coarse = float(two_level(block_amax(rows, rows.shape[1]), spec)[1])
    low, high = (np.float32(end) for end in integer_range(spec, signed=True))
    rest = np.float32(_levels(spec)), np.float32(scale_ceiling(spec, signed=True)), np.float32(coarse)
    run.write(loops.vectors, rows, out, low, high, *rest)
    return True


def layout(spec: QuantSpec, rows: int, columns: int) -> tuple[Field, ...]:
    """Float scales, integer scales, codes."""
    coarse = (rows if spec.coarse == "channel" else 1, 1)
    return (
        Field("coarse", coarse, "fp32"),
        Field("scale", (rows, -(-columns // spec.block)), spec.scale),
        code_field(spec, rows, columns),
    )
