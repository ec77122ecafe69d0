"""Steps of inputs are fitted to a layer's outputs: channels that its weight does not read do not count."""

import pytest
import torch
from torch import Tensor, nn

from quant_core.network.trace import trace
from quant_core.ptq.activation import to_grid
from quant_core.ptq.engine import PostTraining
from quant_core.reconstruct import ranges
from quant_core.reconstruct.held import Held, Room
from quant_core.reconstruct.learn import Stretch
from quant_core.reconstruct.ranges import FACTORS, fit_step
from quant_core.reconstruct.results import starting_policy
from quant_core.reconstruct.state import ReconstructedNetwork
from quant_core.spec.policy import Policy, parse_layer_policy

looked_at: list[int] = []
"""Numbers of the parts that `fitted` ran, in order."""


def fitted(loud: float, activation: str, twice: bool = False) -> tuple[Tensor, ReconstructedNetwork, float]:
    """Return inputs, the network of a layer that does not read the first one, `loud` times the others, and its step before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer, x = nn.Linear(16, 16), torch.randn(64, 16)
    x[:, 0] *= loud
    with torch.no_grad():
        layer.weight[:, 0] = 0.0
    model = nn.Sequential(layer, *([layer] if twice else [])).eval()
    layers = trace(model, x)
    policy = starting_policy(Policy({one.name: parse_layer_policy(f"weight=int4:channel:mse,activation={activation}") for one in layers}))
    network = ReconstructedNetwork(model.requires_grad_(False), PostTraining(model, layers, [x], x), policy)
    parts, wanted = torch.split(x, 4), Held(Room(2**20))
    network.in_float()
    for part in parts:
        wanted.add(layer(part))
    network.quantized()
    before = network.grids(["0"])
    looked_at.clear()

    def forward(index: int, _before: Tensor | None) -> Tensor:
        looked_at.append(index)
        output: Tensor = network.model(parts[index])
        return output

    fit_step(Stretch(forward, None, None, wanted), network, "0", wanted, range(len(parts)))
    return x, network, before["0"].scale if before else 0.0


def test_the_outputs_come_nearer() -> None:
    x, network, before = fitted(4.0, "int4:tensor:mse")
    grid = network.grids(["0"])["0"]
    assert grid.scale == pytest.approx(min(FACTORS) * before)
    errors = [((to_grid(x, scale, *grid[1:]) - x) @ network.float_weight("0").T).var(dim=0).sum() for scale in (before, grid.scale)]
    assert errors[1] < 0.8 * errors[0]
    plain = ((to_grid(x, grid.scale, *grid[1:]) - x).square().mean(), (to_grid(x, before, *grid[1:]) - x).square().mean())
    assert plain[0] > plain[1], "the inputs alone would be worse"


@pytest.mark.parametrize(
    ("activation", "twice"), [("int8:token:dynamic", False), ("int4:tensor:mse", True), ("int4:tensor:affine:mse", False)]
)
def test_other_inputs_are_left(activation: str, twice: bool) -> None:
    _, network, before = fitted(4.0, activation, twice)
    assert [grid.scale for grid in network.grids(["0"]).values()] == ([before] if before else [])


@pytest.mark.parametrize(("enough", "expected"), [(2**22, list(range(0, 16, 2))), (1, [0, 4, 8, 12]), (6 * 64, [0, 2, 5, 8, 10, 13])])
def test_few_parts_of_large_outputs_are_looked_at(enough: int, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "VALUES", enough)
    fitted(4.0, "int4:tensor:mse")
    assert looked_at == expected
