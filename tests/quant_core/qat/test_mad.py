"""Magnitude-aware differentiation: the gradient beyond the clip range."""

import torch

from quant_core.codecs.quantize import fake_quantize
from quant_core.qat import mad
from quant_core.spec.quant_spec import parse
from tests.quant_core.qat.method_cases import draw, gradients_of


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
