"""DoReFa weights against equations 7 and 9."""

import numpy as np
import pytest
import torch

from quant_core.qat import dorefa
from quant_core.spec.quant_spec import parse
from tests.quant_core.qat.method_cases import draw, gradients_of


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
