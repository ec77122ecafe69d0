"""Figures of a layer: means and variances of all outputs, and the shift of the weight that makes good what its inputs lack."""

import pytest
import torch
from torch import nn

from quant_core.network.moments import InputMoments
from quant_core.network.patches import patches, weight_rows
from quant_core.reconstruct.figures import Lack, OutputFigures


@pytest.mark.parametrize("transposed", [False, True])
def test_the_shift_is_the_least_squares_one(transposed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.ConvTranspose2d(4, 6, 2, groups=2) if transposed else nn.Conv2d(4, 6, 2, groups=2)
    exact = torch.randn(32, 4, 6, 6, generator=generator)
    given = (exact + 0.3 * torch.randn(exact.shape, generator=generator)).clamp(-1, 1) + 0.1
    weight = module.weight.detach()
    lack = Lack(module, "own", weight, -3)
    wanted = module(exact).detach() + 5.0
    for x, output in zip(torch.split(given, 4), torch.split(wanted, 4), strict=True):
        lack.update(x, output)
    rows = patches(module, given)
    rows = rows - rows.mean(dim=1, keepdim=True)
    shift = lack.shift(InputMoments(rows.transpose(1, 2) @ rows / rows.shape[1]))
    assert shift is not None
    target = wanted.movedim(1, -1).reshape(-1, 2, 3).transpose(0, 1)  # groups, positions, outputs of a group
    fitted = torch.linalg.lstsq(rows.double(), (target - target.mean(dim=1, keepdim=True)).double()).solution.transpose(1, 2)
    assert torch.allclose((weight_rows(module, weight) + shift).double(), fitted, atol=1e-4)
    assert lack.shift(InputMoments(rows=rows)) is None


def test_figures_are_of_all_outputs() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 3, 5, generator=generator) + 4 for _ in range(3)]
    figures = OutputFigures(-2)
    for part in parts:
        figures.update(part)
    rows = torch.cat(parts).movedim(1, -1).flatten(0, 1).double()
    mean, variance = figures.result()
    assert torch.allclose(mean, rows.mean(dim=0))
    assert torch.allclose(variance, rows.var(dim=0, correction=0))
    assert OutputFigures(-1).result()[0].numel() == 0
