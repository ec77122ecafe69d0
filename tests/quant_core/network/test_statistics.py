"""One-pass statistics against the whole data, and torch's observers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.ao.quantization.observer import MinMaxObserver, MovingAverageMinMaxObserver

from quant_core import InputError, Layer
from quant_core.network.statistics import BINS, TensorStatistics, collect
from quant_core.network.trace import trace


def _batches(count: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(300, generator=generator) * 3.0**i for i in range(count)]


def _seen(batches: list[Tensor]) -> TensorStatistics:
    statistics = TensorStatistics("layer")
    for batch in batches:
        statistics.update(batch)
    return statistics


def test_ends_and_moving_averages_are_torchs() -> None:
    batches = _batches()
    statistics, plain, moving = _seen(batches), MinMaxObserver(), MovingAverageMinMaxObserver()
    for batch in batches:
        plain(batch)
        moving(batch)
    assert (statistics.low, statistics.high) == (plain.min_val.item(), plain.max_val.item())
    assert (statistics.ema_low, statistics.ema_high) == pytest.approx((moving.min_val.item(), moving.max_val.item()), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    scales=st.lists(st.floats(2.0**-100, 2.0**60), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    zeros=st.booleans(),
)
def test_histogram_grows_without_losing_a_value(scales: list[float], seed: int, zeros: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(50, generator=generator) * scale for scale in scales] + [torch.zeros(7)] * zeros
    statistics, values = _seen(batches), torch.cat(batches).double()
    assert statistics.counts.sum() == statistics.count == len(values)
    assert statistics.zeros == 7 * zeros + int((torch.cat(batches[: len(scales)]) == 0).sum())
    np.testing.assert_allclose(statistics.sums.sum(), values.sum().item(), rtol=1e-6, atol=1e-6 * values.abs().sum().item())
    edges = (np.arange(BINS + 1) - BINS // 2) * statistics.width
    expected, _ = np.histogram(values.numpy(), edges)
    np.testing.assert_array_equal(statistics.counts, expected)
    points, weights = statistics.points()
    assert weights.sum() == len(values)
    assert statistics.low <= points.min()
    assert points.max() <= statistics.high


def test_constant_zero_input() -> None:
    statistics = _seen([torch.zeros(4), torch.zeros(3)])
    assert (statistics.low, statistics.high, statistics.count, statistics.zeros) == (0, 0, 7, 7)
    assert statistics.points()[1].tolist() == [7]
    assert statistics.unsigned


def test_means_keep_each_shape() -> None:
    statistics = TensorStatistics("conv", kept_dims=3)
    batches = [torch.randn(2, 3, 4, 4), torch.randn(5, 3, 4, 4), torch.randn(1, 3, 2, 2)]
    for batch in batches:
        statistics.update(batch)
    total, count = statistics.means[3, 4, 4]
    assert count == 7
    torch.testing.assert_close(total / count, torch.cat(batches[:2]).mean(dim=0))
    assert set(statistics.means) == {(3, 4, 4), (3, 2, 2)}


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.shared, self.never = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.shared(self.embedding(x)))


def test_collect_sees_every_call_of_every_called_layer() -> None:
    torch.manual_seed(0)
    model, batches = Twice().eval(), [torch.randint(9, (3, 5)) for _ in range(2)]
    with pytest.warns(UserWarning, match="never"):
        layers = trace(model, batches[0])
    statistics = collect(model, layers, batches)
    assert list(statistics) == ["shared"]
    first = model.embedding(torch.cat(batches)).detach()
    both = torch.cat([first, model.shared(first).detach()])
    assert statistics["shared"].count == both.numel()
    assert statistics["shared"].high == both.max()
    assert not model.shared._forward_pre_hooks


def test_no_batch_and_non_finite_batches_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    layers: list[Layer] = trace(model, torch.ones(1, 2))
    with pytest.raises(InputError, match="calibration split is empty; give at least one batch"):
        collect(model, layers, [])
    with pytest.raises(InputError, match="layer '0': its input in calibration batch 2 holds NaN or infinity"):
        collect(model, layers, [torch.ones(1, 2), torch.tensor([[1.0, torch.nan]])])
    model[0].weight.data.fill_(torch.inf)
    with pytest.raises(InputError, match="layer '1'"):
        collect(model, layers, [torch.ones(1, 2)])


def test_what_float32_cannot_hold_is_refused_like_infinity() -> None:
    with pytest.raises(InputError, match="layer 'layer': its input in calibration batch 1 holds NaN or infinity"):
        TensorStatistics("layer").update(torch.tensor([1.0, 1e300], dtype=torch.float64))


class Doubled(nn.Module):
    """Calls its layer twice, so that its input has two ranges in every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.layer(x)
        second: Tensor = self.layer(5.0 * first)
        return second


def test_parts_of_batches_give_the_statistics_of_the_batches() -> None:
    model, batches = Doubled().eval(), [torch.randn(size, 3, 6, 6) * size for size in (10, 7)]
    layers = trace(model, batches[0])
    whole, cut = (collect(model, layers, batches, at_once)["layer"] for at_once in (0, 3))
    assert (cut.count, cut.zeros, cut.batches, cut.width) == (whole.count, whole.zeros, 4, whole.width)
    for figure in ("low", "high", "ema_low", "ema_high"):
        assert getattr(cut, figure) == pytest.approx(getattr(whole, figure), rel=1e-5)
    assert np.abs(cut.counts - whole.counts).sum() <= 8  # values on the edge of a bin, by the convolution's rounding
    assert cut.sums.sum() == pytest.approx(whole.sums.sum(), rel=1e-4)
    (ours, count), (theirs, of) = (next(iter(statistics.means.values())) for statistics in (cut, whole))
    assert count == of
    assert torch.allclose(ours, theirs, atol=1e-3)
