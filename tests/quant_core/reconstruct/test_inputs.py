"""Inputs while their block is learned: the grid of the engine, a share left unquantized, LSQ's gradient."""

import pytest
import torch

from quant_core.network.statistics import TensorStatistics
from quant_core.ptq.activation import ActivationQuantizer
from quant_core.reconstruct.inputs import Drops, LearnedInput
from quant_core.spec.quant_spec import parse

X = torch.rand(64, 50, generator=torch.Generator().manual_seed(0))


def statistics() -> TensorStatistics:
    seen = TensorStatistics("layer")
    seen.update(X)
    return seen


@pytest.mark.parametrize("text", ["int4:tensor:mse", "int8:tensor:minmax:affine", "int4:token", "mxfp4"])
def test_without_drops_it_starts_as_the_quantizer_of_the_engine(text: str) -> None:
    learned = LearnedInput(parse(text), statistics(), -1)
    assert torch.equal(learned(X, Drops(0.0, 0)), ActivationQuantizer(parse(text), statistics(), -1)(X))


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_the_share_of_values_is_left_and_the_seed_repeats_it(share: float) -> None:
    mask = Drops(share, 3).mask(X)
    assert float(mask.float().mean()) == pytest.approx(share, abs=0.03)
    assert torch.equal(mask, Drops(share, 3).mask(X))
    assert not torch.equal(mask, Drops(share, 4).mask(X))
    learned = LearnedInput(parse("int2:tensor:mse"), statistics(), -1)
    left = learned(X, Drops(share, 3)) == X
    assert bool(left[mask].all())
    assert not bool(left[~mask].all())


def test_the_steps_gradient_is_that_of_lsq() -> None:
    learned = LearnedInput(parse("int3:tensor:mse"), statistics(), -1)
    grid = learned.quantizer.static
    assert grid is not None
    assert learned.factor is not None
    learned(X, Drops(0.0, 0)).sum().backward()
    steps = X.double() / grid.scale
    inside = steps.round() <= grid.quant_max
    slope = torch.where(inside, steps.round() - steps, torch.full_like(steps, float(grid.quant_max))).sum()
    wanted = float(slope) * grid.scale / (50 * grid.quant_max) ** 0.5  # d step / d factor is the step
    assert float(learned.factor.grad) == pytest.approx(wanted, rel=1e-3)


def test_what_is_learned_becomes_the_grid() -> None:
    learned = LearnedInput(parse("int4:tensor:mse"), statistics(), -1)
    before = learned.quantizer.static
    assert before is not None
    assert learned.factor is not None
    with torch.no_grad():
        learned.factor.fill_(0.1)
    after = learned.learned()
    assert after is not None
    assert after.scale == pytest.approx(before.scale * 1.10517, rel=1e-4)
    assert after[1:] == before[1:]


@pytest.mark.parametrize("text", ["int4:tensor:mse:affine", "int8:token"])
def test_other_ranges_stay(text: str) -> None:
    learned = LearnedInput(parse(text), statistics(), -1)
    assert learned.factor is None
    assert learned.learned() == learned.quantizer.static
