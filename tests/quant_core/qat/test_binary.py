"""Binary weights against XNOR-Net and BinaryConnect."""

import math

import pytest
import torch

from quant_core.qat import binary as binary_method
from quant_core.spec.quant_spec import parse
from tests.quant_core.qat.method_cases import draw, gradients_of


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
