"""Bias correction and equalisation on single layers and chains."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from quant_core.network.statistics import collect
from quant_core.network.trace import trace
from quant_core.ptq.corrections import equalize, output_shift

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 3), (4, 5)),
    "linear on tokens": (lambda: nn.Linear(5, 3, bias=False), (4, 7, 5)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (4, 4, 11)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1, bias=False), (4, 4, 7, 8)),
    "conv2d circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (4, 4, 7, 8)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 3, padding=1), (4, 2, 5, 6, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 4, 5, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_output_shift_is_the_measured_mean(name: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make()
    model = nn.Sequential(layer).eval()
    batches = [torch.rand(shape), torch.rand(2 * shape[0], *shape[1:])]
    weight = layer.get_parameter("weight").detach().clone()
    error = torch.randn_like(weight) * 0.1
    statistics = collect(model, trace(model, batches[0]), batches)["0"]
    shift = output_shift(layer, error, statistics)
    total, count = torch.zeros(()), 0
    with torch.no_grad():
        for batch in batches:
            before = model(batch)
            layer.get_parameter("weight").data = weight + error
            moved = model(batch) - before
            layer.get_parameter("weight").data = weight
            by_channel = moved.flatten(0, -2).t() if "linear" in name else moved.movedim(1, 0).flatten(1)
            total, count = total + by_channel.sum(dim=1), count + by_channel.shape[1]
    torch.testing.assert_close(shift, total / count, rtol=1e-4, atol=1e-5)


def test_output_shift_with_inputs_of_several_sizes() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3, padding=1, bias=False)
    model, batches = nn.Sequential(layer), [torch.rand(3, 2, 4, 4), torch.rand(2, 2, 9, 5)]
    statistics = collect(model, trace(model, batches[0]), batches)["0"]
    outputs = torch.cat([model(batch).detach().movedim(1, 0).flatten(1) for batch in batches], dim=1)
    torch.testing.assert_close(output_shift(layer, layer.weight.detach(), statistics), outputs.mean(dim=1))


class Block(nn.Module):
    """Pairs: expand -> depthwise -> project. `project` has two readers; ReLU6 stands before `last`."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depthwise = nn.Conv2d(4, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.project, self.middle, self.last = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.up, self.down = nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Conv2d(6, 4, 1, groups=2)
        self.head, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.expand(x))
        x = self.project(nn.functional.leaky_relu(self.depthwise(x), 0.1))
        x = x + nn.functional.relu6(self.middle(x))
        x = self.down(self.up(self.last(x)).relu_())
        return self.out(self.head(x.mean(dim=(2, 3))).relu())


def test_equalisation_keeps_the_output_and_balances_the_ranges() -> None:
    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        model.expand.weight *= torch.logspace(-2, 2, 12)[:, None, None, None]
        expected = model(x)
        pairs = equalize(model, trace(model, x), x)
        assert pairs == [("expand", "depthwise"), ("depthwise", "project"), ("last", "up"), ("up", "down"), ("head", "out")]
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    outgoing = model.expand.weight.flatten(1).abs().amax(dim=1)
    incoming = model.depthwise.weight.flatten(1).abs().amax(dim=1)
    torch.testing.assert_close(outgoing, incoming, rtol=0.05, atol=0)
    groups = model.down.weight.detach().reshape(2, 2, 3).abs().amax(dim=1).flatten()
    transposed = model.up.weight.detach().reshape(2, 2, 3, 4).abs().amax(dim=(1, 3)).flatten()
    torch.testing.assert_close(groups, transposed, rtol=0.05, atol=0)


def test_layers_called_twice_and_tied_weights_are_not_equalised() -> None:
    shared = nn.Linear(4, 4)
    tied = nn.Linear(4, 4)
    tied.weight = shared.weight
    for model in (nn.Sequential(shared, nn.ReLU(), shared), nn.Sequential(shared, tied)):
        before = shared.weight.detach().clone()
        assert equalize(model, trace(model, torch.rand(1, 4)), torch.rand(1, 4)) == []
        assert torch.equal(before, shared.weight)
