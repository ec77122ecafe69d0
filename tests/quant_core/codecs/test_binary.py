"""Binary weights: the closed forms of the papers, and the edges."""

import math

import pytest
import torch

from quant_core.codecs.quantize import fake_quantize


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def test_the_binary_scale_is_the_mean_magnitude_and_its_error_is_the_identity_of_the_paper() -> None:
    x = normal(4, 5000)
    y = fake_quantize(x, "binary:channel")
    assert torch.allclose(y.abs(), x.abs().mean(dim=1, keepdim=True).expand_as(x))
    error = ((x - y).double() ** 2).sum(dim=1)
    identity = (x.double() ** 2).sum(dim=1) - x.double().abs().sum(dim=1) ** 2 / 5000
    assert torch.allclose(error, identity, rtol=1e-6)
    assert float(error.sum() / (x.double() ** 2).sum()) == pytest.approx(1 - 2 / math.pi, abs=0.01)


def test_zero_of_either_sign_counts_as_plus() -> None:
    x = torch.tensor([[0.0, -0.0, 1.0, -3.0]])
    assert fake_quantize(x, "binary:tensor").tolist() == [[1.0, 1.0, 1.0, -1.0]]
    assert fake_quantize(x, "binary:none").tolist() == [[1.0, 1.0, 1.0, -1.0]]


def test_stochastic_signs_have_the_clipped_value_as_mean() -> None:
    x = torch.full((1, 100_000), 0.25)
    y = fake_quantize(x, "binary:none:stochastic", generator=torch.Generator().manual_seed(0))
    assert abs(float(y.mean()) - 0.25) < 5 * (1 - 0.25**2) ** 0.5 / 100_000**0.5
    x = torch.cat([x, torch.full((1, 100_000), -3.0)], dim=1)
    y = fake_quantize(x, "binary:none:stochastic", generator=torch.Generator().manual_seed(0))
    assert y[0, 100_000:].unique().tolist() == [-1.0]
