"""Learned step sizes: gradients, starting points, and the limit on one update."""

import math

import pytest
import torch

from quant_core.codecs.quantize import fake_quantize
from quant_core.qat import lsq, ste
from quant_core.qat.functions import learned_step
from quant_core.qat.method import WeightQuantizer
from quant_core.spec.quant_spec import parse
from tests.quant_core.qat.method_cases import draw, gradients, gradients_of, seen


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
