"""Ternary weights: closed forms of the papers, brevitas' ternary quantizer, and the edges."""

import warnings

import numpy as np
import pytest
import torch

from quant_core.codecs.quantize import decode, encode, fake_quantize
from quant_core.codecs.ternary import thresholds
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import InputError


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def test_twn_has_the_threshold_and_level_of_the_paper() -> None:
    x = normal(1, 200_000)
    y = fake_quantize(x, "ternary:twn")
    threshold = 0.7 * float(x.abs().mean())
    level = float(x.abs()[x.abs() > threshold].mean())
    assert torch.allclose(y, torch.where(x.abs() > threshold, x.sign() * level, torch.zeros(())))
    sums = x.abs().double().sort(descending=True).values[0].cumsum(0)
    best = float((sums**2 / torch.arange(1, 200_001)).max())
    kept = float((x * y).sum()) / level
    count = int((y != 0).sum())
    assert kept**2 / count == pytest.approx(best, rel=0.003)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_opt_has_the_least_error_of_one_level(granularity: str) -> None:
    x = torch.tensor(np.random.default_rng(0).laplace(size=(6, 400)), dtype=torch.float32)
    x[0] = 0.0
    x[1] = torch.sign(x[2])
    y = fake_quantize(x, f"ternary:{granularity}:opt")
    units = [x] if granularity == "tensor" else list(x)
    for unit, quantized in zip(units, [y] if granularity == "tensor" else list(y), strict=True):
        errors = []
        for threshold in [-1.0, *unit.abs().reshape(-1).tolist()]:  # every way to split the magnitudes
            kept = unit.abs() > threshold
            level = float(unit.abs()[kept].mean()) if bool(kept.any()) else 0.0
            errors.append(float((unit - unit.sign() * kept * level).square().sum()))
        assert float((unit - quantized).square().sum()) <= min(errors) * (1 + 1e-5) + 1e-9
    twn = fake_quantize(x, f"ternary:{granularity}:twn")
    assert (x - y).square().sum() < 0.99 * (x - twn).square().sum()
    assert str(parse("ternary:opt")) == "ternary:opt"
    assert parse("ternary:opt").storage_bits((4, 8)) == parse("ternary:twn").storage_bits((4, 8))


def test_twn_is_brevitas_ternary_with_the_same_threshold() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        brevitas = pytest.importorskip("brevitas.core.quant.ternary", reason="brevitas is no dependency; pip install brevitas==0.13.4")
        x = normal(64, 64)
        spec = parse("ternary:twn")
        level = encode(x, spec).scale
        assert level is not None
        ratio = float(thresholds(x, spec)) / float(level)
        theirs = brevitas.TernaryQuant(scaling_impl=lambda _: level[0, 0], threshold=ratio)(x)[0]
    assert torch.equal(fake_quantize(x, spec), theirs)


def test_ttq_starts_from_the_means_of_either_side() -> None:
    x = torch.tensor([[1.0, 0.5, 0.01, -0.04, -2.0, -0.2]])
    assert encode(x, "ternary:ttq").scale == pytest.approx(torch.tensor([[1.1, 0.75]]))
    y = fake_quantize(x, "ternary:ttq")
    assert y[0].tolist() == pytest.approx([0.75, 0.75, 0.0, 0.0, -1.1, -1.1])
    assert fake_quantize(x, "ternary:ttq", bounds=(torch.tensor(-3.0), torch.tensor(2.0))).tolist() == [[2.0, 2.0, 0.0, 0.0, -3.0, -3.0]]
    assert fake_quantize(x, "ternary:twn", bounds=(torch.tensor(-3.0), torch.tensor(2.0))).abs().max() == 3.0
    with pytest.raises(InputError, match="1 or 1 levels with lo <= 0 <= hi"):
        fake_quantize(x, "ternary:ttq", bounds=(torch.tensor(1.0), torch.tensor(2.0)))


def test_by_channel_every_channel_has_its_own_threshold() -> None:
    x = torch.cat([normal(1, 50), 100 * normal(1, 50)])
    for text in ("ternary:twn", "ternary:ttq", "ternary:opt"):
        y = fake_quantize(x, f"{text}:channel")
        assert torch.allclose(y[:1], fake_quantize(x[:1], text))
        assert torch.allclose(y[1:], fake_quantize(x[1:], text))


@pytest.mark.parametrize("text", ["ternary:twn", "ternary:channel:opt", "ternary:channel:ttq"])
def test_levels_in_float16(text: str) -> None:
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    x[2] = 0.0
    exact, half = encode(x, text), encode(x, f"{text}:fp16")
    assert exact.scale is not None
    assert half.scale is not None
    assert torch.equal(half.codes, exact.codes)
    assert torch.equal(half.scale, exact.scale.half().float())
    assert torch.equal(fake_quantize(x, f"{text}:fp16"), decode(half, parse(f"{text}:fp16"), (6, 40)))
    assert parse(f"{text}:fp16").storage_bits((6, 40)) == parse(text).storage_bits((6, 40)) - 16 * exact.scale.numel()
