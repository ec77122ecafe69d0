"""The formulas of every method: forward values and gradients against torch's operators, the papers, autograd and finite differences."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from quant_core.codecs.quantize import encode, fake_quantize
from quant_core.network.statistics import TensorStatistics
from quant_core.ptq.activation import ActivationQuantizer
from quant_core.qat import QAT_METHODS, codebook, dorefa, lsq, mad, pact, ste, ttq
from quant_core.qat import binary as binary_method
from quant_core.qat.functions import affine, learned_clip, learned_step, scale_gradient
from quant_core.qat.method import WeightQuantizer
from quant_core.qat.prepare import method_named
from quant_core.spec.formats import FORMATS, text_examples
from quant_core.spec.quant_spec import QuantSpec, parse

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "compiled": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "eager": lambda x: torch.stack([x, x], dim=-1)[..., 0],
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(function: Callable[..., Tensor], incoming: Tensor, *leaves: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    leaves = tuple(leaf.detach().clone().requires_grad_() for leaf in leaves)
    value = function(*leaves)
    return value.detach(), torch.autograd.grad(value, leaves, incoming)


def seen(*batches: Tensor) -> TensorStatistics:
    statistics = TensorStatistics("layer")
    for batch in batches:
        statistics.update(batch)
    return statistics


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("scale", "zero", "low", "high"), [(0.1, 0, -8, 7), (0.03, 100, 0, 255), (0.5, 0, 0, 3)])
def test_affine_has_the_values_and_the_gradient_mask_of_torch(layout: str, scale: float, zero: int, low: int, high: int) -> None:
    ties = (torch.arange(-40, 40) + 0.5) * scale
    x = torch.cat([draw(8 * 9 * 9 * 3 - 80), ties]).reshape(8, 3, 9, 9)
    incoming = draw(8, 3, 9, 9, seed=1)
    value, (gradient,) = gradients(lambda x: affine(LAYOUTS[layout](x), (scale, zero, low, high)), incoming, x)
    expected, (aim,) = gradients(lambda x: torch.fake_quantize_per_tensor_affine(x, scale, zero, low, high), incoming, x)
    assert torch.equal(value, expected)
    assert torch.equal(gradient, aim)


def test_affine_keeps_nan_and_clips_infinity() -> None:
    value = affine(torch.tensor([math.nan, math.inf, -math.inf]), (0.5, 0, -8, 7))
    assert math.isnan(value[0])
    assert value[1:].tolist() == [3.5, -4.0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("low", "high"), [(-8, 7), (0, 15)])
def test_learned_step_is_torchs_learnable_fake_quantize(layout: str, low: int, high: int) -> None:
    x, incoming, step, scale = draw(4, 3, 17, 31), draw(4, 3, 17, 31, seed=1), torch.tensor(0.23), 0.01
    value, (dx, ds) = gradients(lambda x, s: learned_step(LAYOUTS[layout](x), s, low, high, scale), incoming, x, step)
    expected, (ax, as_) = gradients(
        lambda x, s: torch._fake_quantize_learnable_per_tensor_affine(x, s, torch.zeros(1), low, high, scale), incoming, x, step.reshape(1)
    )
    assert torch.equal(value, expected)
    assert torch.equal(dx, ax)
    assert float(ds) == pytest.approx(float(as_), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_learned_steps_per_channel_are_torchs(axis: int) -> None:
    weight, incoming = draw(6, 6, 3, 3) * 0.2, draw(6, 6, 3, 3, seed=1)
    quantizer = lsq.StepWeight(weight, parse("int4:channel"), axis)
    value, (dw, ds) = gradients_of(quantizer, weight, incoming, "step")
    learnable = torch._fake_quantize_learnable_per_channel_affine
    steps, factor = quantizer.step.detach().reshape(-1), 1 / math.sqrt(54 * 7)
    expected, (aw, as_) = gradients(lambda w, s: learnable(w, s, torch.zeros(6), axis, -8, 7, factor), incoming, weight, steps)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(dw, aw)
    torch.testing.assert_close(ds.reshape(-1), as_, rtol=1e-4, atol=1e-6)


def gradients_of(quantizer: WeightQuantizer, weight: Tensor, incoming: Tensor, *names: str) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the quantized weight and the gradients of the weight and of the named parameters."""
    leaf = weight.detach().clone().requires_grad_()
    value = quantizer(leaf)
    return value.detach(), torch.autograd.grad(value, (leaf, *(quantizer.get_parameter(name) for name in names)), incoming)


def test_learned_steps_of_groups_are_those_of_channels_of_the_same_values() -> None:
    weight, incoming = draw(4, 40) * 0.2, draw(4, 40, seed=1)
    groups = lsq.StepWeight(weight, parse("int4:group16:fp32"), 0)
    _, (dw, ds) = gradients_of(groups, weight, incoming, "step")
    assert ds.shape == (4, 3)
    for block, columns in enumerate((slice(0, 16), slice(16, 32), slice(32, 40))):
        alone = lsq.StepWeight(weight[:, columns], parse("int4:channel"), 0)
        _, (aw, as_) = gradients_of(alone, weight[:, columns], incoming[:, columns], "step")
        torch.testing.assert_close(dw[:, columns], aw)
        torch.testing.assert_close(ds[:, block], as_[:, 0])


def test_lsq_starts_at_the_step_of_section_2_1() -> None:
    weight = draw(8, 30)
    quantizer = lsq.StepWeight(weight, parse("int3:tensor"), 0)
    assert float(quantizer.step.detach()) == pytest.approx(2 * float(weight.abs().mean()) / math.sqrt(3), rel=1e-6)
    signed, unsigned = (lsq.StepInput(parse("int4:tensor"), seen(x)) for x in (weight, weight.abs()))
    assert signed.codes()[1:] == (0, -8, 7)
    assert unsigned.codes()[1:] == (0, 0, 15)
    assert unsigned.codes()[0] == pytest.approx(2 * float(weight.abs().mean()) / math.sqrt(15), rel=1e-5)


@pytest.mark.parametrize("text", ["int4:channel:mse", "int2:tensor:octav", "int3:group8:percentile", "int4:channel:mse:fp16"])
def test_lsq_starts_at_the_clipping_that_the_policy_names(text: str) -> None:
    weight, spec = draw(6, 24), parse(text)
    assert torch.equal(lsq.StepWeight(weight, spec, 0)(weight), fake_quantize(weight, spec, channel_axis=0))


@pytest.mark.parametrize("clipping", ["ema", "mse", "octav", "kl", "percentile"])
@pytest.mark.parametrize("unsigned", [False, True])
def test_lsq_starts_an_input_at_the_clipping_that_the_policy_names(clipping: str, unsigned: bool) -> None:
    x = draw(64, 30).abs() if unsigned else draw(64, 30)
    spec, statistics = parse(f"int4:tensor:{clipping}"), seen(x[:32], x[32:])
    scale, *others = lsq.StepInput(spec, statistics).codes()
    expected, *ends = ste.RangeInput(spec, statistics).codes()
    assert others == ends
    assert scale == pytest.approx(expected, rel=1e-6)


def test_a_learned_step_does_not_overshoot_zero() -> None:
    """An update of many times the step: without a limit it ends at TINY, every code saturates, and no later update helps."""
    weight = draw(4, 30)
    quantizers = [lsq.StepWeight(weight, parse("int8:channel:mse"), 0), lsq.StepInput(parse("int8:tensor:mse"), seen(weight))]
    for quantizer in quantizers:
        for change, factor in ((-10.0, 0.5), (10.0, 2.0), (0.3, 1.3), (-0.3, 0.7)):
            before = quantizer.step.detach().clone()
            quantizer.step.data *= 1 + change
            quantizer.constrain(weight) if isinstance(quantizer, WeightQuantizer) else quantizer.constrain()
            torch.testing.assert_close(quantizer.step.detach(), factor * before)


def test_a_loaded_step_is_limited_from_where_it_is() -> None:
    weight = draw(4, 30)
    quantizer, other = (lsq.StepWeight(weight, parse("int8:channel:mse"), 0) for _ in range(2))
    quantizer.step.data *= 100
    assert "last" not in quantizer.state_dict()
    other.load_state_dict(quantizer.state_dict())
    other.constrain(weight)
    assert torch.equal(other.step, quantizer.step)


def test_the_step_of_a_tensor_of_zeros_may_grow_at_once() -> None:
    quantizer = lsq.StepWeight(torch.zeros(2, 8), parse("int4:channel"), 0)
    quantizer.step.data[0] = 0.1
    quantizer.constrain(torch.zeros(2, 8))
    assert quantizer.step.detach().flatten().tolist() == [pytest.approx(0.1), pytest.approx(1e-30)]


def test_lsq_scales_the_gradient_of_an_inputs_step_by_its_features() -> None:
    x = draw(6, 5, 4).abs()
    quantizer = lsq.StepInput(parse("int4:tensor"), seen(x))
    quantizer(x).sum().backward()
    plain = gradients(lambda s: learned_step(x, s, 0, 15, 1.0), torch.ones_like(x), quantizer.step)[1][0]
    assert quantizer.step.grad is not None
    assert float(quantizer.step.grad) == pytest.approx(float(plain) / math.sqrt(20 * 15), rel=1e-5)


def test_straight_through_gradients_are_those_of_the_smoothed_function() -> None:
    """Inside, v + s r with the rounding residual r of each value held fixed; outside, the end of the range. In float64."""
    v, incoming, step, h = draw(300).double(), draw(300, seed=1).double(), 0.31, 1e-6
    codes = (v / step).round()
    residual, end = codes - v / step, codes.clamp(-4, 3)

    def smooth(v: Tensor, s: float) -> Tensor:
        return (incoming * torch.where(codes == end, v + s * residual, end * s)).sum()

    _, (dv, ds) = gradients(lambda v, s: learned_step(v, s, -4, 3, 1.0), incoming.float(), v.float(), torch.tensor(step))
    assert float(ds) == pytest.approx(float(smooth(v, step + h) - smooth(v, step - h)) / (2 * h), rel=1e-4)
    bumps = torch.eye(300, dtype=torch.float64) * h
    difference = torch.stack([(smooth(v + bump, step) - smooth(v - bump, step)) / (2 * h) for bump in bumps])
    torch.testing.assert_close(dv.double(), difference, rtol=1e-5, atol=1e-6)


def test_pact_has_the_gradients_of_equation_3() -> None:
    x, clip = torch.tensor([-1.0, 0.0, 1.0, 2.0, 3.0]), torch.tensor(2.0)
    for layout in (lambda x: x, lambda x: torch.stack([x, x], dim=-1)[:, 0]):
        value, (dx, da) = gradients(lambda x, a, lay=layout: learned_clip(lay(x), a, 3), torch.ones(5), x, clip)
        assert value.tolist() == pytest.approx([0, 0, 4 / 3, 2, 2])  # 1 is half-way between two levels: ties to even
        assert dx.tolist() == [0, 1, 1, 0, 0]
        assert float(da) == 2


def test_pact_starts_at_the_calibrated_range_and_decays() -> None:
    x = draw(400).abs()
    quantizer = pact.ClipInput(parse("int4:tensor"), seen(x))
    assert float(quantizer.clip.detach()) == pytest.approx(float(x.max()))
    assert quantizer.decays
    assert torch.equal(quantizer(x), ActivationQuantizer(parse("int4:tensor"), seen(x))(x))
    assert not pact.METHOD.covers_input(parse("int4:tensor"), seen(-x))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_dorefa_is_equation_9_up_to_its_scale(bits: int) -> None:
    weight, incoming = draw(5, 3, 3, 3), draw(5, 3, 3, 3, seed=1)
    quantizer = dorefa.TanhWeight(weight, parse(f"int{bits}:tensor"), 0)
    value, (dw,) = gradients_of(quantizer, weight, incoming)
    w, n = weight.double().numpy(), 2**bits - 1
    if bits == 1:
        expected, slope = np.sign(w) * np.abs(w).mean(), 1.0
    else:
        squashed = np.tanh(w)
        top = np.abs(squashed).max()
        expected, slope = top * (2 * np.round(n * (squashed / (2 * top) + 0.5)) / n - 1), 1 - squashed**2
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dw.numpy(), incoming.numpy() * slope, rtol=1e-5, atol=1e-6)
    assert len(value.unique()) <= 2**bits
    assert 0.0 not in value


def test_dorefa_of_zeros_is_zeros() -> None:
    assert torch.equal(dorefa.TanhWeight(torch.zeros(2, 3), parse("int3:channel"), 0)(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_mad_shrinks_the_gradient_beyond_the_clip_by_its_magnitude() -> None:
    weight, incoming = draw(3, 200), draw(3, 200, seed=1)
    spec = parse("int4:channel:octav")
    quantizer = mad.METHOD.weight(weight, spec, 0).eval()
    value, (dw,) = gradients_of(quantizer, weight, incoming)
    assert torch.equal(value, fake_quantize(weight, spec))
    scale = quantizer.stored(weight)[2][1] / 7  # type: ignore[index]
    codes = (weight / scale).round()
    end = torch.where(weight > 0, 7 * scale, 8 * scale)
    expected = torch.where((codes <= 7) & (codes >= -8), 1.0, end / weight.abs())
    assert 0 < int((expected < 1).sum()) < 100
    torch.testing.assert_close(dw, incoming * expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("text", ["ternary:ttq", "ternary:ttq:channel"])
def test_ttq_has_the_gradients_of_equations_7_and_8(text: str) -> None:
    weight, incoming = draw(4, 50), draw(4, 50, seed=1)
    quantizer = ttq.TrainedTernary(weight, parse(text), 0)
    value, (dw, dn, dp) = gradients_of(quantizer, weight, incoming, "negative", "positive")
    top = weight.abs().amax(dim=1, keepdim=True) if "channel" in text else weight.abs().max()
    plus, minus = weight > 0.05 * top, weight < -0.05 * top
    wn, wp = quantizer.negative.detach(), quantizer.positive.detach()
    aim, (an, ap) = gradients(lambda n, p: p * plus - n * minus, incoming, wn, wp)
    torch.testing.assert_close(value, aim)
    torch.testing.assert_close(dw, incoming * torch.where(plus, wp, torch.where(minus, wn, 1.0)))
    torch.testing.assert_close(dn, an * quantizer.rate)
    torch.testing.assert_close(dp, ap * quantizer.rate)
    assert torch.equal(value, fake_quantize(weight, text))  # it starts at the levels of the format


def test_ttq_levels_never_turn_negative() -> None:
    quantizer = ttq.TrainedTernary(draw(4, 5), parse("ternary:ttq"), 0)
    quantizer.negative.data.fill_(-1.0)
    quantizer.constrain(draw(4, 5))
    assert float(quantizer.negative.detach()) == 0.0


@pytest.mark.parametrize(("text", "scaled"), [("binary:channel", True), ("binary:tensor", True), ("binary:none", False)])
def test_binary_has_the_gradient_of_xnor_net(text: str, scaled: bool) -> None:
    weight, incoming = draw(4, 50) * 0.8, draw(4, 50, seed=1)
    weight[0, 0] = 0.0
    quantizer = binary_method.BinaryWeight(weight, parse(text), 0)
    value, (dw,) = gradients_of(quantizer, weight, incoming)
    mean = {"binary:channel": weight.abs().mean(dim=1, keepdim=True), "binary:tensor": weight.abs().mean()}.get(text, torch.tensor(1.0))
    torch.testing.assert_close(value, torch.where(weight >= 0, mean, -mean).expand_as(weight))
    n = {"binary:channel": 50, "binary:tensor": 200}.get(text, math.inf)
    factor = 1 / n + mean * (weight.abs() <= 1)
    torch.testing.assert_close(quantizer.factor(weight), factor.expand_as(weight))
    assert int((weight.abs() > 1).sum()) > 10
    torch.testing.assert_close(dw, incoming * factor * (1 / float(weight.abs().mean()) if scaled else 1.0))


def test_binary_clips_the_master_weight_and_draws_signs_only_while_training() -> None:
    weight = torch.tensor([[3.0, -2.0, 0.4]])
    quantizer = binary_method.BinaryWeight(weight, parse("binary:none:stochastic"), 0)
    quantizer.constrain(weight)
    assert weight.tolist() == [[1.0, -1.0, pytest.approx(0.4)]]
    torch.manual_seed(0)
    with torch.random.fork_rng():
        drawn = torch.cat([quantizer(weight) for _ in range(2000)])
    assert drawn.mean(dim=0).tolist() == pytest.approx([1.0, -1.0, 0.4], abs=5 * math.sqrt((1 - 0.16) / 2000))
    assert quantizer.eval()(weight).tolist() == [[1.0, -1.0, 1.0]]


@pytest.mark.parametrize("text", ["kmeans2:tensor", "kmeans3:channel", "kmeans2:group2"])
def test_codebook_sums_gradients_per_centre(text: str) -> None:
    weight, incoming = draw(5, 40), draw(5, 40, seed=1)
    quantizer = codebook.CodebookWeight(weight, parse(text), 0)
    value = quantizer(weight)
    (dc,) = torch.autograd.grad(value, quantizer.centres, incoming)
    found = encode(weight, text)
    assert found.codebook is not None
    assert torch.equal(value, fake_quantize(weight, text))
    sums = np.zeros(tuple(found.codebook.shape))
    per_book = {"kmeans2:tensor": 5, "kmeans3:channel": 1, "kmeans2:group2": 2}[text]
    for row in range(5):
        np.add.at(sums[row // per_book], found.codes[row].numpy(), incoming[row].numpy())
    np.testing.assert_allclose(dc.numpy(), sums * quantizer.rate, rtol=1e-5, atol=1e-6)


def test_the_gradient_stops_where_a_shared_scale_saturates() -> None:
    weight = torch.tensor([[7.99, 6.0, 5.0, -7.0, -6.0] + [0.0] * 27])
    quantizer = ste.METHOD.weight(weight, parse("mxfp4"), 0)
    _, (dw,) = gradients_of(quantizer, weight, torch.ones_like(weight))
    assert dw[0, :6].tolist() == [0, 1, 1, 0, 1, 1]
    x = torch.tensor([[0.5, 1.0, 1.5, -2.0]], requires_grad=True)
    ste.METHOD.input(parse("binary:none"), None, -1)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 1, 0, 0]]


SPECS = (
    *text_examples(),
    "int3:tensor:affine",
    "int4:group16",
    "int4:vector16",
    "int8:channel:kl",
    "int4:channel:stochastic",
    "binary:none",
)


@pytest.mark.parametrize("text", [text for text in SPECS if text != "float"])
@pytest.mark.parametrize("axis", [0, 1])
def test_ste_takes_every_format(text: str, axis: int) -> None:
    weight = draw(6, 40) * 0.3
    spec = parse(text)
    quantizer = ste.METHOD.weight(weight, spec, axis)
    value, (dw,) = gradients_of(quantizer.train(), weight, torch.ones_like(weight))
    assert value.shape == dw.shape == weight.shape
    assert bool(torch.isfinite(dw).all())
    assert float(dw.abs().sum()) > 0
    still = parse(text.replace(":stochastic", ""))
    assert torch.equal(quantizer.eval()(weight), fake_quantize(weight, still, channel_axis=axis))


@pytest.mark.parametrize(
    "text", ["int8:tensor", "int4:tensor:mse", "int8:tensor:affine", "int8:tensor:dynamic", "int8:token", "mxfp8", "binary:tensor"]
)
def test_inputs_start_as_post_training_quantization_has_them(text: str) -> None:
    x = draw(5, 8, 6, 6)
    quantizer = ste.METHOD.input(parse(text), seen(x), 1).eval()
    leaf = x.clone().requires_grad_()
    value = quantizer(leaf)
    assert torch.equal(value.detach(), ActivationQuantizer(parse(text), seen(x), 1)(x))
    value.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.shape == x.shape
    assert float(leaf.grad.sum()) > 0


def test_ranges_of_inputs_follow_the_batches_while_they_are_tracked() -> None:
    quantizer = ste.RangeInput(parse("int8:tensor:ema"), seen(torch.tensor([0.0, 1.0])))
    quantizer(torch.tensor([0.0, 3.0]))
    assert float(quantizer.high) == pytest.approx(1.0 + 0.01 * 2.0)
    quantizer.tracking = False
    quantizer(torch.tensor([0.0, 9.0]))
    quantizer.tracking = True
    quantizer.eval()(torch.tensor([0.0, 9.0]))
    assert float(quantizer.high) == pytest.approx(1.02)


def test_ranges_of_weights_follow_them_in_train_mode_only() -> None:
    quantizer = ste.RangeWeight(torch.ones(1, 4), parse("int8:tensor"), 0)
    weight = torch.full((1, 4), 5.0, requires_grad=True)
    quantizer.eval()(weight)
    assert float(quantizer.high) == 1.0
    quantizer.train()(weight)
    assert float(quantizer.high) == 5.0
    searched = ste.RangeWeight(torch.ones(1, 4), parse("int8:tensor:mse"), 0).train()
    for step in range(ste.REFRESH):
        assert float(searched.high) == pytest.approx(1.0), step
        searched(weight)
    assert float(searched.high) == pytest.approx(5.0)


def test_bfloat16_inputs_keep_their_dtype() -> None:
    x = draw(4, 6).to(torch.bfloat16).requires_grad_()
    for quantizer in (ste.METHOD.input(parse("int4:tensor"), seen(x.detach()), -1), lsq.StepInput(parse("int4:tensor"), seen(x.detach()))):
        value = quantizer(x)
        assert value.dtype == torch.bfloat16
        value.sum().backward()


def test_scale_gradient_scales_only_the_gradient() -> None:
    value, (dx,) = gradients(lambda x: scale_gradient(x, 0.25), torch.ones(3), draw(3))
    assert torch.equal(value, draw(3))
    assert dx.tolist() == [0.25] * 3


@pytest.mark.parametrize("name", QAT_METHODS)
def test_every_method_is_described_and_covers_some_format(name: str) -> None:
    method = method_named(name)
    assert method.about
    specs = [parse(text) for text in SPECS] + [parse("ternary:ttq")]
    assert any(method.covers_weight(spec) or method.covers_input(spec, seen(torch.ones(2))) for spec in specs)


def test_formats_have_examples() -> None:
    assert {parse(text).format for text in SPECS} == set(FORMATS)


def test_specs_out_of_reach_are_left_to_ste() -> None:
    refused: list[tuple[str, QuantSpec]] = [
        ("lsq", parse("int4:channel:affine")),
        ("lsq", parse("int4:vector16")),
        ("dorefa", parse("int4:group32")),
        ("ttq", parse("ternary:twn")),
        ("mad", parse("mxfp4")),
    ]
    assert not any(method_named(name).covers_weight(spec) for name, spec in refused)
