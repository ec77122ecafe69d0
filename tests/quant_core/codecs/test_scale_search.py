"""Searched block scales: never a larger error, the definition's bits, other libraries' decoders."""

import math
import warnings

import pytest
import torch
from torch import Tensor

from quant_core.codecs import microscaling, nvfp4
from quant_core.codecs.minifloat import E2M1, E4M3
from quant_core.codecs.packing import pack_encoded, unpack_encoded
from quant_core.codecs.quantize import decode, encode, fake_quantize
from quant_core.codecs.scale_search import BEYOND, LOWEST, defined
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError

NAMES = ["mxfp4", "mxfp6e2m3", "mxfp6e3m2", "mxfp8e4m3", "mxfp8e5m2", "mxint8", "nvfp4"]


def values(shape: tuple[int, ...], spread: int = 20, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * 2.0 ** torch.randint(-spread, spread + 1, shape, generator=generator).float()


def decibels(x: Tensor, q: Tensor) -> float:
    return 10 * math.log10(float(x.double().square().sum() / (q - x).double().square().sum()))


@pytest.mark.parametrize(("name", "least"), [("nvfp4", 21.7), ("mxfp4", 19.0), ("mxfp8e4m3", 31.4)])
def test_a_gaussian_is_nearer_than_under_the_scale_of_the_largest_value(name: str, least: float) -> None:
    x = torch.randn(512, 1024, generator=torch.Generator().manual_seed(0))
    assert decibels(x, fake_quantize(x, f"{name}:mse")) > max(least, decibels(x, fake_quantize(x, name)))
    assert parse(f"{name}:mse").storage_bits((512, 1024)) == parse(name).storage_bits((512, 1024))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(7, 75), (3, 32), (5, 33), (2, 1)])
def test_no_block_is_worse_and_the_loops_give_the_bits_of_the_codes(name: str, shape: tuple[int, int]) -> None:
    x, spec = values(shape), parse(f"{name}:mse")
    x[0, 0] = 0.0
    plain, once = fake_quantize(x, name), fake_quantize(x, spec)
    assert torch.equal(once.view(torch.int32), decode(encode(x, spec), spec, shape).view(torch.int32))
    for part, other, original in zip(once.split(spec.block, 1), plain.split(spec.block, 1), x.split(spec.block, 1), strict=True):
        better, worse = ((q - original).double().square().sum(dim=1) for q in (part, other))
        assert (better <= worse * (1 + 1e-5)).all()
    again = unpack_encoded(pack_encoded(encode(x, spec), spec), spec, shape)
    assert torch.equal(decode(again, spec, shape).view(torch.int32), once.view(torch.int32))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_definition_in_torch_chooses_the_same_scales(name: str, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.cat(
        [values((6, 75)), values((2, 75), 70, 1), torch.zeros(1, 75), torch.full((1, 75), 2.0**-100), torch.full((1, 75), 2.0**90)]
    )
    spec = parse(f"{name}:mse{':weighted' if weighted else ''}")
    importance = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) + 1e-3
    compiled = encode(x, spec, importance=importance)

    def in_torch(rows: Tensor, amax: Tensor, index: Tensor, how: object, weights: Tensor | None = None) -> Tensor:
        usable = (amax == 0) | ((amax >= LOWEST) & (amax < BEYOND))
        return torch.where(usable, defined(rows, index.to(torch.int32), how, weights), index.to(torch.int32))  # type: ignore[arg-type]

    monkeypatch.setattr(nvfp4, "best_index", in_torch)
    monkeypatch.setattr(microscaling, "best_index", in_torch)
    by_definition = encode(x, spec, importance=importance)
    assert torch.equal(compiled.codes, by_definition.codes)
    assert torch.equal(compiled.scale, by_definition.scale)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_weighed(name: str) -> None:
    x = torch.randn(64, 96, generator=torch.Generator().manual_seed(2))
    x[:, ::16] *= 4.0
    importance = torch.ones(64, 96)
    importance[:, ::16] = 1e-3
    errors = [
        float((importance * (decode(encode(x, spec, importance=importance), spec, (64, 96)) - x).square()).sum())
        for spec in (f"{name}:mse", f"{name}:mse:weighted")
    ]
    assert errors[1] <= errors[0] * (1 + 1e-6)
    assert errors[1] < (0.7 if name in ("nvfp4", "mxfp4") else 1.01) * errors[0]
    assert torch.equal(encode(x, f"{name}:mse:weighted").codes, encode(x, f"{name}:mse").codes)  # nothing says what they weigh


def test_values_that_are_not_finite_are_refused() -> None:
    for bad in (float("nan"), float("inf")):
        x = torch.randn(4, 64)
        x[1, 40] = bad
        for name in NAMES:
            with pytest.raises(InputError, match=r"1 NaN and 0 inf|0 NaN and 1 inf"):
                fake_quantize(x, f"{name}:mse")


def test_torchao_decodes_the_same_values() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torchao", reason="torchao is no dependency; pip install torchao==0.18.0 to run this")
        from torchao.prototype.mx_formats import mx_tensor
        from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(4))
    packed = _packed(encode(x, "nvfp4:mse").codes)
    stored = encode(x, "nvfp4:mse")
    assert stored.scale is not None
    assert stored.coarse is not None
    theirs = NVFP4Tensor(packed, stored.scale.to(torch.float8_e4m3fn), 16, torch.float32, per_tensor_scale=stored.coarse.reshape(()))
    assert torch.equal(theirs.dequantize(torch.float32), fake_quantize(x, "nvfp4:mse"))
    mx = encode(x, "mxfp4:mse")
    assert mx.scale is not None
    exponents = (mx.scale.log2() + 127).to(torch.uint8).view(torch.float8_e8m0fnu)
    values = mx_tensor.to_dtype(_packed(mx.codes), exponents, torch.float4_e2m1fn_x2, 32, torch.float32)
    assert torch.equal(values, fake_quantize(x, "mxfp4:mse"))


def test_compressed_tensors_decodes_the_same_values() -> None:
    name = "compressed_tensors.compressors.nvfp4.helpers"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        helpers = pytest.importorskip(name, reason="compressed-tensors is no dependency; pip install compressed-tensors to run this")
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(4))
    stored = encode(x, "nvfp4:mse")
    assert stored.scale is not None
    assert stored.coarse is not None
    elements = helpers.unpack_fp4_from_uint8(_packed(stored.codes), 64, 128, dtype=torch.float32)
    scale = (stored.scale * stored.coarse).repeat_interleave(16, dim=1)
    assert torch.equal(elements * scale, fake_quantize(x, "nvfp4:mse"))


def _packed(codes: Tensor) -> Tensor:
    """Return two codes a byte, the first in the low half."""
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def test_the_elements_are_those_of_the_format() -> None:
    x = values((8, 64))
    stored = encode(x, "nvfp4:mse")
    assert stored.scale is not None
    assert torch.equal(E4M3.decode(E4M3.encode(stored.scale.double())), stored.scale)
    assert set(E2M1.decode(stored.codes).abs().unique().tolist()) <= {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0}
