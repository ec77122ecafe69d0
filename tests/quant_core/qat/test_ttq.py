"""Trained ternary quantization against equations 7 and 8."""

import pytest
import torch

from quant_core.codecs.quantize import fake_quantize
from quant_core.qat import ttq
from quant_core.spec.quant_spec import parse
from tests.quant_core.qat.method_cases import draw, gradients, gradients_of


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
