"""NVFP4: blocks of 16 E2M1 numbers under an E4M3 scale, and one float scale for the tensor, as nvidia-modelopt computes it."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from quant_core.codecs import Bounds, Codec, Encoded, Field, code_field
from quant_core.codecs.blocks import block_amax, expand_blocks
from quant_core.codecs.minifloat import E2M1, E4M3
from quant_core.codecs.rounding import round_steps
from quant_core.codecs.scale_search import ScaleSearch, best_index, write_best
from quant_core.codecs.scales import FLOAT_MAX, FLOAT_MIN
from quant_core.kernels import run
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import InputError

SMALLEST_SCALE = 2.0**-9
_NEAR, _FAR = (0, -1, 1, 4, 5), (0, *range(-8, 0), *range(1, 9))
"""The E4M3 scales that `mse` tries, from the block's own, 8 to an octave: those that a Gaussian chooses most; with weights all."""
_TOP = 6.0 * 448.0


def tensor_scale(top: Tensor, bounds: Bounds | None) -> Tensor:
    """Return g = top / (6 x 448), [1, 1]; `bounds`, one value each, replace the largest magnitude `top`. Zeros give 1.

    Raises:
        InputError: bounds of more than one value, or not finite.
    """
    if bounds is not None:
        if any(end.numel() != 1 or not bool(torch.isfinite(end).all()) for end in bounds):
            raise InputError("bounds for nvfp4 set its one tensor scale; give one finite lo and hi.")
        top = torch.maximum(bounds[0].abs(), bounds[1].abs()).to(top.device, torch.float32)
    scale = torch.where(top > 0, (top / _TOP).clamp(FLOAT_MIN, FLOAT_MAX / _TOP * (1.0 - 2.0**-20)), 1.0)
    return scale.reshape(1, 1).to(torch.float32)


def block_scales(amax: Tensor, coarse: Tensor) -> Tensor:
    """Return top / (6 g) rounded to E4M3, at least 2^-9, [R, B] float32; a block of zeros has 1."""
    wanted = (amax / (6.0 * coarse)).clamp(SMALLEST_SCALE, 448.0)
    scale = E4M3.decode(E4M3.encode(wanted.to(torch.float64)))
    return torch.where(amax > 0, scale, 1.0)


def _search(spec: QuantSpec, coarse: Tensor, offsets: tuple[int, ...]) -> ScaleSearch:
    table = E4M3.decode(torch.arange(E4M3.top + 1))
    return ScaleSearch(table, float(coarse), 1, E4M3.top, offsets, spec.block, E2M1.mantissa, E2M1.emin, E2M1.largest)


def encode(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, generator: torch.Generator | None) -> Encoded:
    """Return sign-magnitude codes [R, C] of x / (s g), E4M3 scales s [R, B] and the tensor scale g [1, 1]."""
    return _encode(rows, None, spec, bounds, generator)


def weighted(rows: Tensor, importance: Tensor, spec: QuantSpec, generator: torch.Generator | None) -> Encoded:
    """Return the codes and scales of `encode`, with squared errors multiplied by `importance` [R, C] where scales are searched."""
    return _encode(rows, importance, spec, None, generator)


def _encode(rows: Tensor, importance: Tensor | None, spec: QuantSpec, bounds: Bounds | None, generator: torch.Generator | None) -> Encoded:
    amax = block_amax(rows, spec.block)
    coarse = tensor_scale(amax.max(), bounds)
    scale = block_scales(amax, coarse)
    if spec.clipping == "mse":
        how = _search(spec, coarse, _NEAR if importance is None else _FAR)
        scale = how.table.to(rows.device)[best_index(rows, amax, E4M3.encode(scale.to(torch.float64)), how, importance).long()]
    scaled = rows / expand_blocks(scale * coarse, spec.block, rows.shape[1])
    scaled = scaled.clamp(-_TOP, _TOP).to(torch.float64)
    codes = E2M1.encode(scaled, partial(round_steps, spec=spec, generator=generator))
    return Encoded(codes.to(torch.uint8), scale=scale, coarse=coarse)


def decode(encoded: Encoded, spec: QuantSpec) -> Tensor:
    """Return the rows, float32."""
    assert encoded.scale is not None
    assert encoded.coarse is not None
    scale = expand_blocks(encoded.scale * encoded.coarse, spec.block, encoded.codes.shape[1])
    return E2M1.decode(encoded.codes) * scale


def layout(spec: QuantSpec, rows: int, columns: int) -> tuple[Field, ...]:
    """The tensor scale, block scales, codes."""
    return (
        Field("coarse", (1, 1), "fp32"),
        Field("scale", (rows, -(-columns // spec.block)), spec.scale),
        code_field(spec, rows, columns),
    )


def fused(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, out: Tensor) -> bool:
    """Write decode(encode(rows)) to `out` by a compiled loop."""
    from quant_core.kernels import shared_exponents as loops

    top = block_amax(rows, rows.shape[1]).max() if bounds is None else rows.new_zeros(())
    coarse = tensor_scale(top, bounds)
    rows = run.rebalance_rows(rows, spec.block)
    if spec.clipping == "mse":
        return write_best(rows, _search(spec, coarse, _NEAR), out.view(rows.shape))
    run.write(loops.nvfp4, rows, out.view(rows.shape), np.float32(coarse.item()))
    return True


CODEC = Codec(encode, decode, layout, fused=fused, weighted=weighted)
