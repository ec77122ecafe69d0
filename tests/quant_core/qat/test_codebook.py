"""Trained codebooks: the gradient of every centre."""

import numpy as np
import pytest
import torch

from quant_core.codecs.quantize import encode, fake_quantize
from quant_core.qat import codebook
from quant_core.spec.quant_spec import parse
from tests.quant_core.qat.method_cases import draw


@pytest.mark.parametrize("text", ["kmeans2:tensor", "kmeans3:channel", "kmeans2:group2"])
def test_codebook_sums_gradients_per_centre(text: str) -> None:
    weight, incoming = draw(5, 40), draw(5, 40, seed=1)
    quantizer = codebook.CodebookWeight(weight, parse(text), 0)
    value = quantizer(weight)
    (dc,) = torch.autograd.grad(value, quantizer.centres, incoming)
    encoded = encode(weight, text)
    assert encoded.codebook is not None
    assert torch.equal(value, fake_quantize(weight, text))
    sums = np.zeros(tuple(encoded.codebook.shape))
    per_book = {"kmeans2:tensor": 5, "kmeans3:channel": 1, "kmeans2:group2": 2}[text]
    for row in range(5):
        np.add.at(sums[row // per_book], encoded.codes[row].numpy(), incoming[row].numpy())
    np.testing.assert_allclose(dc.numpy(), sums * quantizer.rate, rtol=1e-5, atol=1e-6)
