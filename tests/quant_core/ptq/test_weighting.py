"""Clippings weighted by what the inputs weigh: the importance of weights, less output error, the same storage."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from quant_core import Policy, parse, parse_layer_policy
from quant_core.codecs.quantize import decode, encode
from quant_core.network.moments import InputMoments, second_moments
from quant_core.network.trace import trace
from quant_core.ptq.activation import ActivationQuantizer
from quant_core.ptq.engine import PostTraining
from quant_core.ptq.gptq import gptq
from quant_core.ptq.weighting import FLOOR, importance, refitted
from quant_core.util.errors import InputError

CLIPPED = ["int3:channel:mse", "int4:group16:mse", "int3:channel:mse:affine", "int4:tensor:octav", "int4:vector16:mse", "kmeans2:channel"]


def _inputs(columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(500, columns, generator=generator)
    x[:, 1:] += 0.5 * x[:, :-1]
    return x * (0.05 + torch.rand(columns, generator=generator) ** 3)


def _moments(x: Tensor) -> InputMoments:
    return InputMoments((x.t() @ x / len(x))[None])


def _diagonal_error(quantized: Tensor, weight: Tensor, weights: Tensor) -> float:
    return float((weights * (quantized - weight).square()).sum())


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (nn.Linear(12, 5), torch.randn(40, 12)),
        (nn.Conv2d(4, 6, 3, groups=2, padding=1), torch.rand(5, 4, 7, 7)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), torch.rand(5, 4, 5, 5)),
    ],
)
def test_the_importance_is_the_error_that_one_weight_makes(module: nn.Module, x: Tensor) -> None:
    weights = importance(module, second_moments(nn.Sequential(module), {"0": module}, [x], centered=False)["0"])
    weight = module.get_parameter("weight")
    assert weights.shape == weight.shape
    reference = module(x).detach()
    errors, at = [], [0, weight.numel() // 2, weight.numel() - 1]
    for place in at:
        kept = weight.data.clone()
        weight.data.view(-1)[place] += 1.0
        errors.append(float((module(x).detach() - reference).square().sum()))
        weight.data = kept
    chosen = weights.flatten()[at]
    assert torch.allclose(chosen / chosen[0], torch.tensor(errors) / errors[0], rtol=0.05)


def test_constant_inputs_count_little_and_where_all_are_all_count_alike() -> None:
    module = nn.Linear(4, 2)
    weights = importance(module, InputMoments(torch.diag(torch.tensor([1.0, 0.0, 3.0, 0.0]))[None]))
    assert torch.allclose(weights[0], torch.tensor([1.0, FLOOR, 3.0, FLOOR]))
    assert torch.equal(importance(module, InputMoments(torch.zeros(1, 4, 4))), torch.ones(2, 4))


@pytest.mark.parametrize("text", CLIPPED)
def test_weighted_ranges_have_less_weighted_error_and_the_same_storage(text: str) -> None:
    torch.manual_seed(0)
    module = nn.Linear(96, 24)
    weight, spec = module.weight.detach(), parse(text)
    weights, weighted = importance(module, _moments(_inputs(96))), replace(spec, weighted=True)
    assert parse(str(weighted)) == weighted
    assert weighted.storage_bits((24, 96)) == spec.storage_bits((24, 96))
    plain, other = (decode(encode(weight, which, importance=weights), which, (24, 96)) for which in (spec, weighted))
    assert _diagonal_error(other, weight, weights) < 0.99 * _diagonal_error(plain, weight, weights)
    assert torch.equal(encode(weight, weighted).codes, encode(weight, spec).codes), "nothing says what the inputs weigh"
    with pytest.raises(InputError, match=r"importance of shape \(24,\) given for values of \(24, 96\)"):
        encode(weight, weighted, importance=weights[:, 0])


def test_percentile_counts_what_the_inputs_weigh() -> None:
    weight = torch.linspace(0.01, 1.0, 100)[None]
    weights = torch.ones(1, 100)
    weights[0, -10:] = 1e-6  # the largest weights hardly count
    scale = encode(weight, "int8:channel:percentile:weighted", importance=weights).scale
    assert scale is not None
    assert 127 * float(scale) == pytest.approx(0.90, abs=0.011)


def test_scales_are_fitted_to_the_output() -> None:
    torch.manual_seed(0)
    module, moments = nn.Linear(64, 16), _moments(_inputs(64))
    weight, spec = module.weight.detach(), parse("int2:channel")
    before = encode(weight, spec)
    after = refitted(before, spec, module, weight, 0, moments)
    assert torch.equal(before.codes, after.codes)
    errors = [moments.energy((decode(codes, spec, (16, 64)) - weight)[None])[0] for codes in (before, after)]
    assert (errors[1] <= errors[0] * (1 + 1e-5)).all()
    assert after.scale is not None
    for factor in (0.98, 1.02):
        moved = decode(replace(after, scale=after.scale * factor), spec, (16, 64))
        assert (moments.energy((moved - weight)[None])[0] >= errors[1] * (1 - 1e-5)).all()


@pytest.mark.parametrize("text", ["int3:channel:mse", "int2:group16:mse", "kmeans2:channel", "nvfp4:mse", "mxfp4:mse"])
def test_gptq_over_weighted_scales_has_less_output_error(text: str) -> None:
    torch.manual_seed(1)
    module, moments = nn.Linear(96, 24), _moments(_inputs(96))
    weight, errors = module.weight.detach(), []
    for which in (f"{text}:gptq", f"{text}:weighted:gptq"):
        quantized = decode(gptq(module, weight, parse(which), 0, moments), which, (24, 96))
        errors.append(float(moments.energy((quantized - weight)[None]).sum()))
    assert errors[1] < errors[0] or (text.startswith("mxfp4") and errors[1] == errors[0])  # a power of two seldom moves


def test_the_engine_weighs_every_rounding() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(96, 24)), _inputs(96)
    reference, layers = model(x).detach(), trace(model, x)
    engine = PostTraining(model, layers, [x], x, scale_correction=False)
    for rounding in ("", ":adaround", ":gptq"):
        errors = []
        for text in (f"int3:channel:mse{rounding}", f"int3:channel:mse:weighted{rounding}"):
            network = engine.apply(Policy({"0": parse_layer_policy(f"weight={text}")}))
            errors.append(float((network(x) - reference).detach().square().sum()))
        assert errors[1] < errors[0]
    assert engine.calibration_passes == 2


def test_activations_are_not_weighted() -> None:
    with pytest.raises(InputError, match="only errors of weights are weighted, by what their inputs weigh; leave weighted out"):
        ActivationQuantizer(parse("int8:token:mse:weighted"), None)
