"""MX4, MX6 and MX9 (Darvish Rouhani et al., ISCA 2023): 16 numbers share an exponent, each pair of them a 1-bit micro-exponent."""

import numpy as np
import torch
from torch import Tensor

from quant_core.codecs import Bounds, Codec, Encoded, Field, code_field, no_bounds
from quant_core.codecs.blocks import block_amax, expand_blocks
from quant_core.codecs.minifloat import floor_log2
from quant_core.codecs.rounding import round_steps
from quant_core.codecs.scales import power_of_two
from quant_core.kernels import run
from quant_core.spec.quant_spec import QuantSpec

PAIR = 2


def magnitude_bits(spec: QuantSpec) -> int:
    """Return m, the explicit magnitude bits beside the sign: 2, 4, 7."""
    return spec.bits - 1


def _step_exponents(exponents: Tensor, micro: Tensor, spec: QuantSpec, columns: int) -> Tensor:
    """Return E - tau - (m - 1), [R, C] int32: the exponent of one step of every element."""
    return expand_blocks(exponents, spec.block, columns) - expand_pairs(micro, columns) - (magnitude_bits(spec) - 1)


def expand_pairs(micro: Tensor, columns: int) -> Tensor:
    """Return [R, C] int32 of the micro-exponents [R, ceil(C / 2)]."""
    return micro.to(torch.int32).repeat_interleave(PAIR, dim=1)[:, :columns]


def encode(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, generator: torch.Generator | None) -> Encoded:
    """Return sign-magnitude codes [R, C], shared powers of two 2^E [R, B], micro-exponents tau [R, ceil(C / 2)].

    E = floor(log2(largest magnitude)), in E8M0's [-127, 127] (-127 for zeros); tau = 1 where both elements of a pair have an exponent below
    E; the code is x / 2^(E - tau - (m - 1)), rounded, clipped to 2^m - 1. -0 is kept.
    """
    no_bounds(spec, bounds)
    m = magnitude_bits(spec)
    exponents = floor_log2(block_amax(rows, spec.block)).clamp(-127, 127)
    below = floor_log2(rows.abs()) < expand_blocks(exponents, spec.block, rows.shape[1])
    if rows.shape[1] % PAIR:
        below = torch.cat([below, torch.ones_like(below[:, :1])], dim=1)
    micro = below.reshape(len(rows), -1, PAIR).all(dim=2).to(torch.uint8)
    steps = torch.ldexp(rows.to(torch.float64).abs(), -_step_exponents(exponents, micro, spec, rows.shape[1]))
    magnitude = round_steps(steps, spec, generator).clamp(max=2**m - 1).to(torch.uint8)
    return Encoded(magnitude | (torch.signbit(rows).to(torch.uint8) << m), scale=power_of_two(exponents), micro=micro)


def decode(encoded: Encoded, spec: QuantSpec) -> Tensor:
    """Return the rows, float32."""
    assert encoded.scale is not None
    assert encoded.micro is not None
    m, codes = magnitude_bits(spec), encoded.codes.to(torch.int32)
    magnitude = (codes & (2**m - 1)).to(torch.float64)
    signed = torch.where(codes >> m > 0, -magnitude, magnitude)
    exponents = _step_exponents(floor_log2(encoded.scale), encoded.micro, spec, codes.shape[1])
    return torch.ldexp(signed, exponents).to(torch.float32)


def layout(spec: QuantSpec, rows: int, columns: int) -> tuple[Field, ...]:
    """Exponents, micro-exponents, codes."""
    return (
        Field("scale", (rows, -(-columns // spec.block)), spec.scale),
        Field("micro", (rows, -(-columns // PAIR)), "u1"),
        code_field(spec, rows, columns),
    )


def fused(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, out: Tensor) -> bool:
    """Write decode(encode(rows)) to `out` by a compiled loop."""
    from quant_core.kernels import shared_exponents as loops

    no_bounds(spec, bounds)
    rows = run.rebalance_rows(rows, spec.block)
    run.write(loops.micro_exponents, rows, out.view(rows.shape), np.int32(magnitude_bits(spec)))
    return True


CODEC = Codec(encode, decode, layout, fused=fused)
