"""Ternary weights {-a, 0, +b}: TWN (Li et al., 2016) with one level, TTQ (Zhu et al., ICLR 2017) with two, and the optimum of one level."""

import torch
from torch import Tensor

from quant_core.codecs import Bounds, Codec, Encoded, Field, code_field
from quant_core.codecs.blocks import block_amax
from quant_core.codecs.scales import FLOAT_MAX, store_scale
from quant_core.codecs.sign_sums import mean_magnitude, sign_sums
from quant_core.kernels import run
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.errors import InputError

TWN_THRESHOLD = 0.7
TTQ_THRESHOLD = 0.05


def thresholds(rows: Tensor, spec: QuantSpec) -> Tensor:
    """Return D, [R or 1, 1] float32: 0.7 mean |x| (TWN, equation 6), 0.05 max |x| (TTQ, equation 9), or that of the least squared error.

    With the m largest magnitudes at level a the error is sum x^2 - 2 a S_m + m a^2, S_m their sum; a = S_m / m leaves sum x^2 - S_m^2 / m
    (TWN, equations 3 to 5). `opt` tries every m on the sorted magnitudes; D is the largest magnitude left at 0.
    """
    if spec.clipping == "opt":
        return _optimal_thresholds(rows if spec.granularity == "channel" else rows.reshape(1, -1))
    if spec.clipping == "twn":
        return (TWN_THRESHOLD * mean_magnitude(rows, spec)).to(torch.float32)
    amax = block_amax(rows, rows.shape[1])
    return (TTQ_THRESHOLD * (amax if spec.granularity == "channel" else amax.amax().reshape(1, 1)).to(torch.float64)).to(torch.float32)


def _optimal_thresholds(units: Tensor) -> Tensor:
    ranked = units.abs().sort(dim=1, descending=True).values
    counts = torch.arange(1, ranked.shape[1] + 1, device=units.device)
    kept = (ranked.to(torch.float64).cumsum(dim=1).square() / counts).argmax(dim=1, keepdim=True)
    padded = torch.cat([ranked, torch.zeros_like(ranked[:, :1])], dim=1)
    return padded.gather(1, kept + 1)


def levels(rows: Tensor, threshold: Tensor, spec: QuantSpec, bounds: Bounds | None) -> Tensor:
    """Return the levels, [R or 1, 1] of TWN, [R or 1, 2] as (negative, positive) magnitudes of TTQ, float32; of fp16 rounded to it."""
    exact = _means(rows, threshold, spec) if bounds is None else _from_bounds(rows, spec, bounds)
    return exact if spec.scale == "fp32" else torch.where(exact > 0, store_scale(exact, spec.scale, FLOAT_MAX), 0.0)


def _means(rows: Tensor, threshold: Tensor, spec: QuantSpec) -> Tensor:
    sums = sign_sums(rows, threshold, spec)
    if spec.clipping != "ttq":
        sums = sums[:, :2] + sums[:, 2:]
    return (sums[:, ::2] / sums[:, 1::2].clamp(min=1.0)).to(torch.float32)


def encode(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, generator: torch.Generator | None) -> Encoded:  # noqa: ARG001
    """Return codes [R, C] (integer + 1) and levels [R or 1, 1], of TTQ [R or 1, 2] as (negative, positive) magnitudes.

    x > D gives +1, x < -D gives -1. A level is the mean magnitude of the values that take it (TTQ trains its levels; this is where
    training starts); 0 where there are none. `bounds` (lo <= 0 <= hi) set the levels to -lo and hi, the larger of them where there is one.
    """
    threshold = thresholds(rows, spec)
    signs = (rows > threshold).to(torch.int8) - (rows < -threshold).to(torch.int8)
    return Encoded((signs + 1).to(torch.uint8), -1, scale=levels(rows, threshold, spec, bounds))


def decode(encoded: Encoded, spec: QuantSpec) -> Tensor:  # noqa: ARG001
    """Return the rows, float32."""
    assert encoded.scale is not None
    signs = encoded.codes.to(torch.float32) + encoded.low
    negative, positive = encoded.scale[:, :1], encoded.scale[:, -1:]
    return torch.where(signs > 0, positive, torch.where(signs < 0, -negative, 0.0))


def _from_bounds(rows: Tensor, spec: QuantSpec, bounds: Bounds) -> Tensor:
    units = len(rows) if spec.granularity == "channel" else 1
    lo, hi = (end.detach().to(rows.device, torch.float32).reshape(-1) for end in bounds)
    if any(len(end) not in (1, units) for end in (lo, hi)) or not bool((lo <= 0).all() and (hi >= 0).all()):
        raise InputError(f"bounds of {len(lo)} values given for {spec}; give {units} or 1 levels with lo <= 0 <= hi.")
    pair = torch.stack([-lo.expand(units), hi.expand(units)], dim=1)
    return pair if spec.clipping == "ttq" else pair.amax(dim=1, keepdim=True)


def layout(spec: QuantSpec, rows: int, columns: int) -> tuple[Field, ...]:
    """Levels, codes."""
    shape = (rows if spec.granularity == "channel" else 1, 2 if spec.clipping == "ttq" else 1)
    return (Field("scale", shape, spec.scale), code_field(spec, rows, columns))


def lowest(spec: QuantSpec) -> int:  # noqa: ARG001
    """Return -1."""
    return -1


def fused(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, out: Tensor) -> bool:
    """Write decode(encode(rows)) to `out` by a compiled loop."""
    from quant_core.kernels import signs

    if spec.granularity == "channel" and bounds is None and spec.clipping != "opt" and spec.scale == "fp32":
        run.write(signs.ternary_by_row, rows, out, TWN_THRESHOLD if spec.clipping == "twn" else TTQ_THRESHOLD, spec.clipping == "twn")
        return True
    threshold = thresholds(rows, spec)
    chosen = levels(rows, threshold, spec, bounds)
    figures = (threshold, chosen[:, :1], chosen[:, -1:])
    run.write(signs.ternary, rows, out, *(figure.expand(len(threshold), 1).reshape(-1).contiguous().numpy() for figure in figures))
    return True


CODEC = Codec(encode, decode, layout, lowest, fused)
