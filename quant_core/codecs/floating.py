"""`float`: float32, nothing is quantized. The codes are the bits of the numbers."""

import torch
from torch import Tensor

from quant_core.codecs import Bounds, Codec, Encoded, Field, no_bounds
from quant_core.codecs.scales import from_bits, to_bits
from quant_core.spec.quant_spec import QuantSpec


def encode(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, generator: torch.Generator | None) -> Encoded:  # noqa: ARG001
    """Return the float32 bits as int64 codes."""
    no_bounds(spec, bounds)
    return Encoded(to_bits(rows, "fp32"))


def decode(encoded: Encoded, spec: QuantSpec) -> Tensor:  # noqa: ARG001
    """Return the rows, float32."""
    return from_bits(encoded.codes, "fp32")


def layout(spec: QuantSpec, rows: int, columns: int) -> tuple[Field, ...]:  # noqa: ARG001
    """The numbers."""
    return (Field("codes", (rows, columns), "u32"),)


CODEC = Codec(encode, decode, layout)
