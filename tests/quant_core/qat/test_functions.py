"""The autograd functions against torch's operators, the papers and finite differences."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from quant_core.qat.functions import affine, learned_step, scale_gradient
from tests.quant_core.qat.method_cases import draw, gradients

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "compiled": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "eager": lambda x: torch.stack([x, x], dim=-1)[..., 0],
}


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


def test_scale_gradient_scales_only_the_gradient() -> None:
    value, (dx,) = gradients(lambda x: scale_gradient(x, 0.25), torch.ones(3), draw(3))
    assert torch.equal(value, draw(3))
    assert dx.tolist() == [0.25] * 3
