"""OCP Microscaling v1.0 (2023): blocks of 32 minifloats or 8-bit fixed-point numbers under a shared power of two (E8M0)."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from quant_core.codecs import Bounds, Codec, Encoded, Field, code_field, no_bounds
from quant_core.codecs.blocks import block_amax, expand_blocks
from quant_core.codecs.minifloat import E2M1, E2M3, E3M2, E4M3, E5M2, Minifloat, floor_log2
from quant_core.codecs.rounding import round_steps
from quant_core.codecs.scale_search import ScaleSearch, best_index, write_best
from quant_core.codecs.scales import power_of_two
from quant_core.kernels import run
from quant_core.spec.quant_spec import QuantSpec

ELEMENTS: dict[str, Minifloat] = {"mxfp4": E2M1, "mxfp6e2m3": E2M3, "mxfp6e3m2": E3M2, "mxfp8e4m3": E4M3, "mxfp8e5m2": E5M2}
INT8_FRACTION_BITS = 6
_INT8_LOW, _INT8_TOP = -128, 127
_BIAS = 127


def block_exponents(amax: Tensor, spec: QuantSpec) -> Tensor:
    """Return floor(log2(top)) - emax of the element (section 6.3), int32, in E8M0's [-127, 127]; a block of zeros has -127."""
    emax = ELEMENTS[spec.format].emax if spec.format in ELEMENTS else 0
    return (floor_log2(amax) - emax).clamp(-127, 127)


def _search(spec: QuantSpec, offsets: tuple[int, ...] = (0, -1, 1)) -> ScaleSearch:
    """Return the powers of two that `mse` tries around that of the specification: half of it and twice it."""
    kind = ELEMENTS.get(spec.format)
    mantissa, emin, largest, emax = INT8_FRACTION_BITS, 0, _INT8_TOP / 2**INT8_FRACTION_BITS, 0
    if kind is not None:
        mantissa, emin, largest, emax = kind.mantissa, kind.emin, kind.largest, kind.emax
    table = power_of_two(torch.arange(-_BIAS, _BIAS + 1))
    return ScaleSearch(table, 1.0, 0, 2 * _BIAS, offsets, spec.block, mantissa, emin, largest, emax, kind is not None)


def encode(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, generator: torch.Generator | None) -> Encoded:
    """Return codes [R, C] (sign-magnitude; MXINT8 offset binary) and power-of-two scales [R, B]. Values saturate; -0 is kept by floats."""
    no_bounds(spec, bounds)
    return weighted(rows, None, spec, generator)


def weighted(rows: Tensor, importance: Tensor | None, spec: QuantSpec, generator: torch.Generator | None) -> Encoded:
    """Return the codes and scales of `encode`, squared errors multiplied by `importance` [R, C] where scales are searched (to 1/8 then)."""
    amax = block_amax(rows, spec.block)
    exponents = block_exponents(amax, spec)
    if spec.clipping == "mse":
        how = _search(spec) if importance is None else _search(spec, (0, -3, -2, -1, 1))
        exponents = best_index(rows, amax, exponents + _BIAS, how, importance) - _BIAS
    scaled = torch.ldexp(rows.to(torch.float64), -expand_blocks(exponents, spec.block, rows.shape[1]))
    scale = power_of_two(exponents)
    rounding = partial(round_steps, spec=spec, generator=generator)
    if spec.format in ELEMENTS:
        return Encoded(ELEMENTS[spec.format].encode(scaled, rounding).to(torch.uint8), scale=scale)
    steps = rounding(torch.ldexp(scaled, torch.tensor(INT8_FRACTION_BITS))).clamp(-_INT8_TOP, _INT8_TOP)
    return Encoded((steps - _INT8_LOW).to(torch.uint8), _INT8_LOW, scale=scale)


def decode(encoded: Encoded, spec: QuantSpec) -> Tensor:
    """Return the rows, float32."""
    assert encoded.scale is not None
    scale = expand_blocks(encoded.scale, spec.block, encoded.codes.shape[1])
    if spec.format in ELEMENTS:
        return ELEMENTS[spec.format].decode(encoded.codes) * scale
    return (encoded.codes.to(torch.float32) + encoded.low) * 2.0**-INT8_FRACTION_BITS * scale


def layout(spec: QuantSpec, rows: int, columns: int) -> tuple[Field, ...]:
    """Exponents, codes."""
    return (Field("scale", (rows, -(-columns // spec.block)), spec.scale), code_field(spec, rows, columns))


def lowest(spec: QuantSpec) -> int:
    """Return the integer that code 0 stands for: -128 of MXINT8; minifloat codes are no integers."""
    return 0 if spec.format in ELEMENTS else _INT8_LOW


def fused(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, out: Tensor) -> bool:
    """Write decode(encode(rows)) to `out` by a compiled loop."""
    from quant_core.kernels import shared_exponents as loops

    no_bounds(spec, bounds)
    rows = run.rebalance_rows(rows, spec.block)
    if spec.clipping == "mse":
        return write_best(rows, _search(spec), out.view(rows.shape))
    if spec.format not in ELEMENTS:
        run.write(loops.fixed_point, rows, out.view(rows.shape), np.int32(INT8_FRACTION_BITS), np.float32(_INT8_TOP))
        return True
    kind = ELEMENTS[spec.format]
    figures = np.int32(kind.mantissa), np.int32(kind.emin), np.int32(kind.emax), np.float32(kind.largest)
    run.write(loops.minifloat, rows, out.view(rows.shape), *figures)
    return True


CODEC = Codec(encode, decode, layout, lowest, fused, weighted)
