"""AdaRound against exhaustive search, and its promises."""

import importlib
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant_core import parse
from quant_core.clipping import ranges
from quant_core.codecs.quantize import decode, encode, fake_quantize
from quant_core.network.moments import InputMoments, second_moments
from quant_core.ptq.adaround import adaround, round_up

ADAROUND: Any = importlib.import_module("quant_core.ptq.adaround")


def _moments(columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(500, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    return (x.t() @ x / 500)[None]


def test_close_to_the_best_of_all_roundings() -> None:
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)))[None]
    step, ratios, plain = torch.full((1, 1, 8), 0.5), [], []
    for seed in range(30):
        moments = _moments(8, seed)
        error = -torch.rand(1, 1, 8, generator=torch.Generator().manual_seed(100 + seed)) * 0.5

        def objectives(h: Tensor, error: Tensor = error, moments: Tensor = moments) -> Tensor:
            d = error + h * step
            return ((d @ moments) * d).sum(dim=2)

        best = float(objectives(every).min())
        ratios.append(float(objectives(round_up(error, step, InputMoments(moments)))) / best)
        plain.append(float(objectives((-error >= step / 2).float())) / best)
    assert min(ratios) > 1 - 1e-5
    assert all(ratio <= nearest + 1e-5 for ratio, nearest in zip(ratios, plain, strict=True))
    assert sum(ratios) / 30 < 1.3
    assert sum(plain) / 30 > 2
    assert sum(ratio < 1.0001 for ratio in ratios) > 15


@pytest.mark.parametrize("text", ["int4:channel:mse", "int3:tensor", "int4:group8:mse", "int3:channel:mse:affine", "int4:vector4"])
def test_output_error_falls_and_values_stay_on_the_grid(text: str) -> None:
    torch.manual_seed(0)
    module = nn.Linear(24, 16)
    batches = [torch.randn(400, 24) @ torch.randn(24, 24)]
    model = nn.Sequential(module)
    moments = second_moments(model, {"0": module}, batches, centered=False)["0"]
    weight = module.weight.detach()
    nearest = fake_quantize(weight, parse(text))
    rounded = decode(adaround(module, weight, parse(f"{text}:adaround"), 0, moments), text, (16, 24))

    def error(q: Tensor) -> float:
        return float((batches[0] @ (q - weight).t()).square().sum())

    assert error(rounded) < 0.85 * error(nearest)
    assert (rounded - weight).abs().max() <= 2.01 * (nearest - weight).abs().max()


def test_every_weight_goes_to_a_neighbour_on_the_grid() -> None:
    torch.manual_seed(0)
    module = nn.Linear(24, 16)
    weight, spec = module.weight.detach(), parse("int4:channel:mse:adaround")
    scale = ranges(weight, spec)[1][:, None] / 7
    codes = decode(adaround(module, weight, spec, 0, InputMoments(_moments(24, 0))), spec, (16, 24)) / scale
    torch.testing.assert_close(codes, codes.round(), atol=1e-4, rtol=0)
    inside = (weight / scale).clamp(-8, 7)
    assert ((codes - inside).abs() < 1 + 1e-4).all()
    assert (codes.round() != inside.round()).any()


def test_transposed_convolutions_and_depthwise_layers_are_rounded_too() -> None:
    torch.manual_seed(0)
    for module, x in (
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), torch.rand(8, 4, 5, 5)),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), torch.rand(8, 6, 7, 7)),
    ):
        axis = 1 if isinstance(module, nn.ConvTranspose2d) else 0
        spec = parse("int3:channel:mse:adaround")
        weight, reference = module.weight.detach().clone(), module(x).detach()
        moments = second_moments(nn.Sequential(module), {"0": module}, [x], centered=False)["0"]

        def error(q: Tensor, module: nn.Module = module, x: Tensor = x, reference: Tensor = reference) -> float:
            module.get_parameter("weight").data = q
            return float((module(x).detach() - reference).square().sum())

        rounded = decode(adaround(module, weight, spec, axis, moments), spec, tuple(weight.shape), channel_axis=axis)
        assert error(rounded) < 0.8 * error(fake_quantize(weight, spec, channel_axis=axis))


def test_large_layers_are_relaxed_row_by_row_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    error, step = -torch.rand(1, 96, 80) * 0.5, torch.full((1, 96, 80), 0.5)
    moments, relaxed = InputMoments(_moments(80, 3)), []
    whole = moments.energy(error + round_up(error, step, moments) * step)
    relax = ADAROUND._relax

    def counted(error: Tensor, *rest: Any) -> Tensor:
        relaxed.append(error.shape[1])
        return relax(error, *rest)

    monkeypatch.setattr(ADAROUND, "_relax", counted)
    monkeypatch.setattr(ADAROUND, "LARGEST", 2 * ADAROUND.STEPS * 80**2 * 50)
    bounded = moments.energy(error + round_up(error, step, moments) * step)
    nearest = moments.energy(error + (-error >= step / 2) * step)
    assert sum(relaxed) <= 50
    assert max(relaxed) <= ADAROUND.ROWS
    assert (bounded <= nearest * (1 + 1e-5)).all()
    assert whole.sum() < bounded.sum() < 0.6 * nearest.sum()


def test_codebooks_go_to_a_neighbouring_centre() -> None:
    torch.manual_seed(0)
    module, moments = nn.Linear(24, 16), InputMoments(_moments(24, 0))
    weight = module.weight.detach()
    encoded, nearest = adaround(module, weight, parse("kmeans3:channel:adaround"), 0, moments), encode(weight, "kmeans3:channel")
    assert encoded.codebook is not None
    assert nearest.codebook is not None
    assert torch.equal(encoded.codebook, nearest.codebook)
    assert (encoded.codes.int() - nearest.codes.int()).abs().max() == 1
    values = [decode(form, parse("kmeans3:channel"), (16, 24)) for form in (encoded, nearest)]
    errors = [float(moments.energy((value - weight)[None]).sum()) for value in values]
    assert errors[0] < 0.85 * errors[1]
