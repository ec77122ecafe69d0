"""Floats of 4 to 8 bits: sign, exponent and mantissa bits, subnormals, no infinity; what the OCP MX v1.0 elements are made of."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


def floor_log2(values: Tensor) -> Tensor:
    """Return floor(log2(values)), exact (from the exponent bits), int32; of 0 it is -1000."""
    exponents = torch.frexp(values)[1] - 1
    return torch.where(values > 0, exponents, -1000)


@dataclass(frozen=True, slots=True)
class Minifloat:
    """A small float. Codes are sign-magnitude: the sign bit above `exponent + mantissa` bits.

    Attributes:
        exponent, mantissa: number of bits.
        top: the code of the largest finite magnitude; values beyond it saturate (OCP MX v1.0, section 6.3).
    """

    exponent: int
    mantissa: int
    top: int

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal number."""
        return int(2 - 2 ** (self.exponent - 1))

    @property
    def emax(self) -> int:
        """Exponent of the largest number."""
        return (self.top >> self.mantissa) - 1 + self.emin

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return float(_magnitudes(self)[self.top])

    def encode(self, values: Tensor, rounding: Callable[[Tensor], Tensor] = torch.round) -> Tensor:
        """Return the codes, int32, of finite float64 `values`; `rounding` maps a number of steps to an integer."""
        magnitude = values.abs()
        exponent = floor_log2(magnitude).clamp(min=self.emin)
        steps = rounding(torch.ldexp(magnitude, self.mantissa - exponent)).to(torch.int32)
        code = (((exponent - self.emin) << self.mantissa) + steps).clamp(max=self.top)
        return code | (torch.signbit(values).to(torch.int32) << (self.exponent + self.mantissa))

    def decode(self, codes: Tensor) -> Tensor:
        """Return the float32 values of codes."""
        table = _magnitudes(self)
        return torch.cat([table, -table]).to(codes.device)[codes.long()]


@cache
def _magnitudes(kind: Minifloat) -> Tensor:
    """Return the value of every code without sign, float32; codes above `top` have no finite value and read as the largest."""
    code = torch.arange(2 ** (kind.exponent + kind.mantissa)).clamp(max=kind.top)
    field, fraction = code >> kind.mantissa, code & (2**kind.mantissa - 1)
    whole = torch.where(field > 0, fraction + 2**kind.mantissa, fraction).to(torch.float64)
    return torch.ldexp(whole, (field - 1).clamp(min=0) + kind.emin - kind.mantissa).to(torch.float32)


E2M1 = Minifloat(2, 1, 0b111)
E2M3 = Minifloat(2, 3, 0b11111)
E3M2 = Minifloat(3, 2, 0b11111)
E4M3 = Minifloat(4, 3, 0b1111110)
E5M2 = Minifloat(5, 2, 0b1111011)
