"""Quantization parameters, which turn numbers into integer codes and back: q = clamp(round(x / S) + Z, quant_min, quant_max)."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class QParams(NamedTuple):
    """The quantization parameters of a whole tensor, in the order in which torch takes them.

    Attributes:
        scale: S, a float32, positive.
        zero_point: Z, in [quant_min, quant_max] or 0.
        quant_min, quant_max: the smallest and largest integer.
    """

    scale: float
    zero_point: int
    quant_min: int
    quant_max: int


@dataclass(frozen=True, slots=True)
class BlockQParams:
    """The quantization parameters of a matrix [R, C] in blocks of `block` columns.

    Attributes:
        scale: S, float32, [R or 1, B], positive and normal.
        zero_point: Z, float32 integers in [quant_min, quant_max], the shape of `scale`.
        quant_min, quant_max: the smallest and largest integer.
        block: columns that share a scale.
    """

    scale: Tensor
    zero_point: Tensor
    quant_min: int
    quant_max: int
    block: int
