"""The straight-through estimator: every format, ranges that follow, gradients that stop at saturation."""

import pytest
import torch

from quant_core.codecs.quantize import fake_quantize
from quant_core.ptq.activation import ActivationQuantizer
from quant_core.qat import lsq, ste
from quant_core.spec.quant_spec import parse
from tests.quant_core.qat.method_cases import SPECS, draw, gradients_of, seen


def test_the_gradient_stops_where_a_shared_scale_saturates() -> None:
    weight = torch.tensor([[7.99, 6.0, 5.0, -7.0, -6.0] + [0.0] * 27])
    quantizer = ste.METHOD.weight(weight, parse("mxfp4"), 0)
    _, (dw,) = gradients_of(quantizer, weight, torch.ones_like(weight))
    assert dw[0, :6].tolist() == [0, 1, 1, 0, 1, 1]
    x = torch.tensor([[0.5, 1.0, 1.5, -2.0]], requires_grad=True)
    ste.METHOD.input(parse("binary:none"), None, -1)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 1, 0, 0]]


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
