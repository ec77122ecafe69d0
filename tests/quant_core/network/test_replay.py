"""Running behind a point again: kept outputs stand in for layers that were run before, whatever is done to them afterwards."""

import pytest
import torch
from torch import Tensor, nn

from quant_core.network.replay import ActivationReplay


class Residual(nn.Module):
    """Two layers, an addition in place, a layer that is called twice, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.twice, self.head = (nn.Linear(4, 4) for _ in range(4))
        self.never = nn.Linear(4, 4)
        self.calls: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        out = self.first(x)
        out += self.second(torch.relu(out))
        return self.head(self.twice(self.twice(out)))  # type: ignore[no-any-return]


@pytest.fixture
def network() -> Residual:
    torch.manual_seed(0)
    return Residual().requires_grad_(False)


def test_layers_before_a_point_are_not_computed_again(network: Residual) -> None:
    inputs = torch.randn(3, 4)
    prefix = ActivationReplay(network, dict(network.named_children()), inputs)
    assert prefix.before(["second"]) == ("first",)
    assert prefix.before(["head"]) == ("first", "second")  # `twice` ran twice
    assert prefix.before(["head", "second"]) == ("first",)
    assert prefix.before(["first"]) == ()
    assert prefix.before(["never"]) == ()
    weight = network.first.weight.clone()
    with prefix.replayed(prefix.before(["head"])):
        network.first.weight.fill_(torch.nan)  # not looked at
        for _ in range(2):  # the addition in place must not reach what is kept
            assert torch.equal(network(inputs), prefix.outputs)
        network.head.weight.mul_(2)
        changed = network(inputs)
    network.first.weight.copy_(weight)
    assert torch.equal(network(inputs), changed)


@pytest.mark.parametrize(("budget", "kept"), [(0, ()), (47, ()), (48, ("first",)), (95, ("first",)), (96, ("first", "second"))])
def test_a_small_budget_replays_fewer_layers(network: Residual, budget: int, kept: tuple[str, ...]) -> None:
    inputs = torch.randn(3, 4)
    prefix = ActivationReplay(network, dict(network.named_children()), inputs, budget)
    assert prefix.before(["head"]) == kept
    network.head.weight.mul_(2)
    expected = network(inputs)
    with prefix.replayed(prefix.before(["head"])):
        assert torch.equal(network(inputs), expected)


def test_the_network_is_itself_again_after_an_error(network: Residual) -> None:
    inputs = torch.randn(3, 4)
    prefix = ActivationReplay(network, dict(network.named_children()), inputs)
    with pytest.raises(RuntimeError, match="broken"), prefix.replayed(("first",)):
        raise RuntimeError("broken")
    assert torch.equal(network(2 * inputs), ActivationReplay(network, {}, 2 * inputs).outputs)
    assert not torch.equal(network(2 * inputs), prefix.outputs)
    assert "forward" not in vars(network.first)
