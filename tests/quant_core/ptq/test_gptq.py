"""GPTQ against a reference of a few lines, exhaustive search, and its promises."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quant_core import Policy, parse, parse_layer_policy
from quant_core.codecs.quantize import decode, encode, fake_quantize
from quant_core.network.moments import InputMoments, second_moments
from quant_core.network.trace import trace
from quant_core.ptq.adaround import adaround
from quant_core.ptq.engine import PostTraining
from quant_core.ptq.gptq import DAMPING, descend, feed_back, gptq, round_by_moments
from quant_core.ptq.grids import Grids, grids_of, with_places
from quant_core.util.errors import InputError

FORMATS = [
    "int2:channel:mse",
    "int3:tensor:octav",
    "int4:group8:mse",
    "int3:channel:mse:affine",
    "int4:vector4",
    "int4:channel:e8m0",
    "kmeans3:tensor",
    "kmeans2:group3",
    "ternary:channel:twn",
    "ternary:channel:ttq",
    "binary:channel",
    "binary:none",
    "mx4",
    "mx9",
    "mxfp4",
    "mxfp6",
    "mxint8",
    "nvfp4",
]


def _inputs(columns: int, seed: int, count: int = 600) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, columns, generator=generator)
    x[:, 1:] += 0.7 * x[:, :-1]
    return x * torch.rand(columns, generator=generator)


def _matrix(x: Tensor) -> InputMoments:
    return InputMoments((x.t() @ x / len(x))[None])


def _published(weight: np.ndarray, scale: np.ndarray, bits: int, moments: np.ndarray) -> np.ndarray:
    """Algorithm 1 of GPTQ (arXiv 2210.17323) with act-order: codes [O, K], by the inverse of H and its upper Cholesky factor."""
    order = np.argsort(-np.diag(moments), kind="stable")
    w, h = weight[:, order].astype(np.float64).copy(), moments[np.ix_(order, order)].astype(np.float64).copy()
    h[np.diag_indices_from(h)] += DAMPING * np.diag(h).mean()
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    codes = np.empty(w.shape, dtype=np.int64)
    for i in range(w.shape[1]):
        codes[:, i] = np.clip(np.rint(w[:, i] / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        error = (w[:, i] - codes[:, i] * scale) / upper[i, i]
        w[:, i:] -= error[:, None] * upper[i, i:]
    out = np.empty_like(codes)
    out[:, order] = codes
    return out


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_are_those_of_the_published_algorithm(bits: int) -> None:
    x, module = _inputs(300, bits), nn.Linear(300, 20)
    weight, spec, moments = module.weight.detach(), parse(f"int{bits}:channel:mse"), _matrix(x)
    encoded = encode(weight, spec)
    grids, codes = grids_of(module, encoded, spec, (20, 300), 0)
    places = feed_back(weight[None], grids, moments)
    assert encoded.scale is not None
    assert moments.matrix is not None
    expected = _published(weight.numpy(), encoded.scale[:, 0].numpy(), bits, moments.matrix[0].numpy())
    chosen = with_places(module, encoded, places, codes, spec, 0).codes.long().numpy() + encoded.low
    assert (chosen != expected).mean() < 0.002  # values half-way between two codes, up to the arithmetic
    assert (chosen != encoded.codes.long().numpy() + encoded.low).mean() > 0.05


def test_close_to_the_best_of_all_codes() -> None:
    every, ratios = torch.tensor(list(itertools.product(range(4), repeat=6))).float()[None], []
    for seed in range(20):
        weight = torch.randn(1, 1, 6, generator=torch.Generator().manual_seed(seed))
        grids, moments = Grids(torch.full((1, 1, 6), -1.5), torch.ones(1, 1, 6), 3), _matrix(_inputs(6, seed))
        best = float(moments.energy(grids.low + every - weight).min())
        ratios.append(float(moments.energy(grids.values(round_by_moments(weight, grids, moments)) - weight)) / best)
    assert min(ratios) > 1 - 1e-4
    assert sum(ratios) / 20 < 1.15
    assert sum(ratio < 1.0001 for ratio in ratios) >= 12


@pytest.mark.parametrize("text", FORMATS)
def test_the_error_falls_on_the_grid_of_rounding_to_nearest(text: str) -> None:
    torch.manual_seed(0)
    module, spec, moments = nn.Linear(48, 12), parse(text), _matrix(_inputs(48, 1))
    weight = module.weight.detach()
    rounded = gptq(module, weight, replace(spec, rounding="gptq"), 0, moments)
    nearest = encode(weight, spec)
    for field in ("scale", "coarse", "zero_point", "codebook", "micro"):
        kept, other = getattr(rounded, field), getattr(nearest, field)
        assert (kept is None) == (other is None)
        assert kept is None or torch.equal(kept, other)
    assert rounded.codes.shape == nearest.codes.shape
    assert rounded.codes.dtype == nearest.codes.dtype
    errors = [moments.energy((decode(codes, spec, (12, 48)) - weight)[None])[0] for codes in (rounded, nearest)]
    assert (errors[0] <= errors[1] * (1 + 1e-5)).all()
    assert errors[0].sum() < 0.85 * errors[1].sum()


def test_descent_never_raises_the_error() -> None:
    for seed in range(10):
        weight, moments = torch.randn(2, 5, 150, generator=torch.Generator().manual_seed(seed)), _matrix(_inputs(150, seed))
        assert moments.matrix is not None
        both = InputMoments(moments.matrix.expand(2, -1, -1).contiguous())
        grids = Grids(torch.full((2, 5, 150), -2.0), torch.full((2, 5, 150), 0.5), 7)
        places = grids.nearest(weight)
        before = both.energy(grids.values(places) - weight)
        for _ in range(3):
            places = descend(weight, grids, places, both, 1)
            after = both.energy(grids.values(places) - weight)
            assert (after <= before * (1 + 1e-5)).all()
            before = after
        stuck = descend(weight, grids, descend(weight, grids, places, both, 50), both, 1)
        at = grids.values(stuck)
        for i in range(0, 150, 30):
            for place in range(8):
                moved = at.clone()
                moved[:, :, i] = grids.low[:, :, i] + 0.5 * place
                assert (both.energy(moved - weight) >= both.energy(at - weight) * (1 - 1e-4)).all()


def test_a_sample_of_patches_gives_the_codes_of_its_matrix() -> None:
    x, module = _inputs(700, 3, count=200), nn.Linear(700, 8)
    spec, weight = parse("int3:channel:mse:gptq"), module.weight.detach()
    codes = [gptq(module, weight, spec, 0, moments).codes for moments in (_matrix(x), InputMoments(rows=x[None]))]
    assert (codes[0] != codes[1]).float().mean() < 0.002


@pytest.mark.parametrize("seed", [0, 1])
def test_nearly_as_good_as_adaround(seed: int) -> None:
    torch.manual_seed(seed)
    module, moments = nn.Linear(96, 32), _matrix(_inputs(96, seed))
    weight = module.weight.detach()
    for bits in (2, 3, 4):
        spec = parse(f"int{bits}:channel:mse")
        chosen = (gptq(module, weight, spec, 0, moments), adaround(module, weight, spec, 0, moments))
        errors = [float(moments.energy((decode(codes, spec, (32, 96)) - weight)[None]).sum()) for codes in chosen]
        assert errors[0] < 1.1 * errors[1]


def test_convolutions_of_every_kind() -> None:
    torch.manual_seed(0)
    cases = (
        (nn.Conv2d(8, 6, 3, padding=1, groups=2, stride=2), torch.rand(8, 8, 9, 9)),
        (nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6), torch.rand(8, 6, 9, 9)),
        (nn.Conv1d(4, 5, 3), torch.rand(20, 4, 12)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), torch.rand(8, 4, 5, 5)),
    )
    ratios = []
    for text, (module, x) in itertools.product(("int3:channel:mse", "kmeans2:channel", "int4:group5", "mxfp4"), cases):
        axis = 1 if isinstance(module, nn.ConvTranspose2d) else 0
        spec = parse(text)
        weight, reference = module.weight.detach().clone(), module(x).detach()
        moments = second_moments(nn.Sequential(module), {"0": module}, [x], centered=False)["0"]

        def error(q: Tensor, module: nn.Module = module, x: Tensor = x, reference: Tensor = reference) -> float:
            module.get_parameter("weight").data = q
            return float((module(x).detach() - reference).square().sum())

        rounded = decode(gptq(module, weight, spec, axis, moments), spec, tuple(weight.shape), channel_axis=axis)
        ratios.append(error(rounded) / error(fake_quantize(weight, spec, channel_axis=axis)))
        module.get_parameter("weight").data = weight
    assert max(ratios) < 1 + 1e-4
    assert sum(ratio < 0.9 for ratio in ratios) > 10


def test_inputs_that_are_zero_or_few_are_rounded_to_nearest_where_nothing_tells_more() -> None:
    module, spec = nn.Linear(40, 6), parse("int3:channel:mse:gptq")
    weight = module.weight.detach()
    zeros = gptq(module, weight, spec, 0, InputMoments(torch.zeros(1, 40, 40)))
    assert torch.equal(zeros.codes, encode(weight, spec).codes)
    x = _inputs(40, 0)
    x[:, 20:] = 0
    half = gptq(module, weight, spec, 0, _matrix(x))
    assert torch.equal(half.codes[:, 20:], encode(weight, spec).codes[:, 20:])
    one = nn.Linear(1, 6)
    few = gptq(one, one.weight.detach(), spec, 0, InputMoments(torch.ones(1, 1, 1)))
    assert torch.equal(few.codes, encode(one.weight.detach(), spec).codes)
    assert gptq(module, weight, spec, 0, _matrix(x[:3])).codes.shape == (6, 40)
    with pytest.raises(InputError, match="second moments of 40 inputs are not finite; look for huge values in the calibration data"):
        gptq(module, weight, spec, 0, InputMoments(torch.full((1, 40, 40), float("inf"))))


@pytest.mark.parametrize("rounding", ["gptq", "adaround"])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_outputs_of_the_engine_are_nearer_than_by_rounding_to_nearest(rounding: str, bias_correction: bool) -> None:
    """Without a corrected bias the mean of the input counts: errors are measured with it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 24))
    x = _inputs(48, 5) + 2.0
    layers = trace(model, x)
    reference = model(x).detach()
    errors = []
    for text in ("int3:channel:mse", f"int3:channel:mse:{rounding}"):
        engine = PostTraining(model, layers, [x], x, bias_correction=bias_correction, scale_correction=False)
        network = engine.apply(Policy({"0": parse_layer_policy(f"weight={text}")}))
        errors.append(float((network(x) - reference).detach().square().sum()))
    assert errors[1] < 0.75 * errors[0]
