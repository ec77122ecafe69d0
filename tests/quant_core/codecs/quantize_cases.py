"""Every spec of the format table and the nasty tensors that the conformance tests run them on."""

from collections.abc import Iterator

import torch
from torch import Tensor

from quant_core.spec.formats import FORMATS
from quant_core.spec.quant_spec import QuantSpec, SpecError, legal_scales, make

BITS = {"int": (1, 2, 3, 4, 8, 16), "kmeans": (1, 3, 8)}
SIZES = {"group": (3, 128), "vector": (4, 16)}


def all_specs() -> list[QuantSpec]:
    """Return every format x granularity x clipping x symmetry x scale x rounding, at a few bit widths and block sizes."""
    return list(dict.fromkeys(_specs()))


def _specs() -> Iterator[QuantSpec]:
    for name, info in FORMATS.items():
        for granularity in info.granularities:
            for bits in BITS.get(name, info.bits):
                for block in SIZES.get(granularity, (info.block,)) if name != "kmeans" else ((2,) if granularity == "group" else (0,)):
                    for clipping in info.clippings:
                        yield make(name, bits, granularity, block=block, clipping=clipping)
                    for rounding in info.roundings:
                        yield make(name, bits, granularity, block=block, rounding=rounding)
                    for scale in legal_scales(name, granularity):
                        yield make(name, bits, granularity, block=block, scale=scale)
                    yield from _affine(name, bits, granularity, block)


def _affine(name: str, bits: int, granularity: str, block: int) -> Iterator[QuantSpec]:
    for clipping in FORMATS[name].clippings:
        for scale in legal_scales(name, granularity):
            try:
                yield make(name, bits, granularity, block=block, clipping=clipping, symmetric=False, scale=scale)
            except SpecError:
                continue


def nasty_tensors() -> dict[str, Tensor]:
    """Return finite tensors at the edges: zeros, constants, subnormals, the largest floats, odd shapes, other dtypes and strides."""
    generator = torch.Generator().manual_seed(7)
    normal = torch.randn(5, 37, generator=generator)
    outlier = normal.clone()
    outlier[2, 5] = 1e6
    with_zero_channel = normal.clone()
    with_zero_channel[1] = 0.0
    extremes = torch.tensor([3.4028234663852886e38, -3.4028234663852886e38, 1e-45, 0.0, -0.0, 1.0, 2.0**-126, -(2.0**-140)])
    return {
        "normal": normal,
        "conv": torch.randn(6, 3, 3, 3, generator=generator),
        "outlier": outlier,
        "zeros": torch.zeros(3, 20),
        "negative zeros": -torch.zeros(2, 9),
        "zero channel": with_zero_channel,
        "constant": torch.full((3, 18), 0.3),
        "negative constant": torch.full((2, 33), -7.0),
        "positive": normal.abs() + 1.0,
        "subnormal": normal * 1e-41,
        "tiny": normal * 2.0**-125,
        "huge": normal.clamp(-1, 1) * 3e38,
        "extremes": extremes.reshape(2, 4),
        "largest": torch.full((2, 17), 3.4028234663852886e38),
        "one": torch.tensor([[-2.5]]),
        "zero-dimensional": torch.tensor(1.7),
        "vector": torch.randn(19, generator=generator),
        "half": (normal * 1e4).to(torch.float16),
        "half extremes": torch.tensor([[65504.0, -65504.0, 6e-8, 1.0]], dtype=torch.float16),
        "bfloat16": normal.to(torch.bfloat16),
        "bfloat16 largest": torch.full((2, 5), 3.3895313892515355e38, dtype=torch.bfloat16),
        "double": normal.to(torch.float64),
        "transposed": torch.randn(12, 7, generator=generator).t(),
        "strided": torch.randn(6, 40, generator=generator)[::2, 1::3],
        "expanded": torch.tensor([[1.0], [-2.0]]).expand(2, 11),
    }
