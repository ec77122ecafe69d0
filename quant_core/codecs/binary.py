"""Binary: the sign (0 counts as +) times nothing, or the mean magnitude of the tensor or channel (Rastegari et al., ECCV 2016, eq. 6)."""

import torch
from torch import Tensor

from quant_core.codecs import Bounds, Codec, Encoded, Field, code_field, no_bounds
from quant_core.codecs.sign_sums import mean_magnitude
from quant_core.kernels import run
from quant_core.spec.quant_spec import QuantSpec
from quant_core.util.rng import uniform


def encode(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, generator: torch.Generator | None) -> Encoded:
    """Return codes [R, C], 1 for +, and scales a = mean |x|, [R or 1, 1].

    Stochastic (Courbariaux et al., NeurIPS 2015, equation 2): + with probability clip((x / a + 1) / 2, 0, 1), so that the mean is x clipped
    to [-a, a].
    """
    no_bounds(spec, bounds)
    scale = None if spec.granularity == "none" else mean_magnitude(rows, spec).to(torch.float32)
    plus = rows >= 0
    if spec.rounding == "stochastic":
        unit = rows if scale is None else torch.where(scale > 0, rows / scale, 0.0)
        plus = uniform(tuple(rows.shape), generator, rows.device) < (unit + 1.0) / 2.0
    return Encoded(plus.to(torch.uint8), scale=scale)


def decode(encoded: Encoded, spec: QuantSpec) -> Tensor:  # noqa: ARG001
    """Return the rows, float32."""
    signs = encoded.codes.to(torch.float32) * 2.0 - 1.0
    return signs if encoded.scale is None else torch.where(encoded.scale > 0, signs * encoded.scale, 0.0)


def layout(spec: QuantSpec, rows: int, columns: int) -> tuple[Field, ...]:
    """Scales, codes."""
    scale = Field("scale", (rows if spec.granularity == "channel" else 1, 1), spec.scale)
    return (*(() if spec.granularity == "none" else (scale,)), code_field(spec, rows, columns))


def fused(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, out: Tensor) -> bool:
    """Write decode(encode(rows)) to `out` by a compiled loop."""
    from quant_core.kernels import signs

    no_bounds(spec, bounds)
    if spec.granularity == "channel":
        run.write(signs.binary_by_row, rows, out)
        return True
    scale = torch.ones(1, 1) if spec.granularity == "none" else mean_magnitude(rows, spec).to(torch.float32)
    run.write(signs.binary, rows, out, scale.reshape(-1).numpy())
    return True


CODEC = Codec(encode, decode, layout, fused=fused)
