"""Shrunk second moments: near what endless data has, exact where data is plenty, of a sample above the largest matrix."""

import pytest
import torch
from torch import Tensor, nn

from quant_core.network import moments, shrinkage
from quant_core.network.moments import InputMoments
from quant_core.network.shrinkage import combined, shrunk_moments


def inputs(count: int, size: int, seed: int = 0) -> Tensor:
    """Return rows whose neighbours are correlated by 0.6, of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, size, generator=generator)
    rows = [noise[:, 0]]
    for column in range(1, size):
        rows.append(0.6 * rows[-1] + 0.8 * noise[:, column])
    return torch.stack(rows, dim=1) * torch.linspace(0.5, 3, size)


def matrix(result: InputMoments | None) -> Tensor:
    assert result is not None
    assert result.matrix is not None
    return result.matrix[0]


def test_few_rows_lean_on_the_diagonal_and_many_do_not() -> None:
    size, module = 24, nn.Linear(24, 2)
    ratios = []
    for count in (16, 16_000):
        x = inputs(count, size)
        result = matrix(shrunk_moments(module, ([part] for part in torch.split(x, count // 8)), 8, centered=False))
        plain = x.t() @ x / count
        off = ~torch.eye(size, dtype=torch.bool)
        assert torch.allclose(result[off], plain[off], rtol=1e-4, atol=1e-4)
        ratios.append(float((result.diagonal() / plain.diagonal() - 1).mean()))
        assert float((result.diagonal() / plain.diagonal()).std()) < 1e-4
    assert ratios[0] > 1.0
    assert ratios[1] < 0.05


def test_the_share_is_that_of_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrinkage, "STRENGTH", 1.0)
    size, module, errors = 16, nn.Linear(16, 2), {"plain": 0.0, "shrunk": 0.0}
    truth = torch.tensor([[0.6 ** abs(a - b) for a in range(size)] for b in range(size)])
    for seed in range(20):
        x = inputs(16, size, seed)
        plain = x.t() @ x / len(x)
        result = matrix(shrunk_moments(module, ([part] for part in torch.split(x, 2)), 8, centered=False))
        for name, moments_of in (("plain", plain), ("shrunk", result)):
            unit = moments_of.diagonal().rsqrt()
            errors[name] += float((moments_of * unit[:, None] * unit - truth).square().sum())
    assert errors["shrunk"] < 0.75 * errors["plain"]


def test_one_part_and_no_part() -> None:
    module, x = nn.Linear(6, 2), inputs(40, 6)
    alone = shrunk_moments(module, [[x]], 1, centered=True)
    centered = x - x.mean(dim=0)
    assert torch.allclose(matrix(alone), centered.t() @ centered / len(x), atol=1e-5)
    assert shrunk_moments(module, [[], []], 2, centered=True) is None


def test_above_the_largest_matrix_rows_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    for where in (moments, shrinkage):
        monkeypatch.setattr(where, "LARGEST_MATRIX", 8)
    x = inputs(64, 12)
    result = shrunk_moments(nn.Linear(12, 2), ([part] for part in torch.split(x, 16)), 4, centered=False)
    assert result is not None
    assert result.rows is not None
    assert result.rows.shape == (1, 64, 12)


def test_inputs_that_are_constant_stay_so() -> None:
    x = inputs(64, 6)
    x[:, 2] = 0.0
    halves = [InputMoments((part.t() @ part / len(part))[None]) for part in torch.split(x, 32)]
    result = matrix(combined(*halves))
    assert float(result[2].abs().sum()) == 0.0
    assert bool(torch.isfinite(result).all())
