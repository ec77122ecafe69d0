"""Folding changes the modules and not the outputs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core.network.dataflow import record
from quant_core.network.fold import fold_batch_norm


def _trained(model: nn.Module) -> nn.Module:
    """Give every batch norm statistics and parameters that matter."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            for tensor, offset in ((module.running_mean, 0.0), (module.running_var, 0.5), (module.weight, 0.2), (module.bias, 0.0)):
                if tensor is not None:
                    tensor.data = torch.rand(tensor.shape, generator=generator) + offset
    return model.eval()


def _norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


class Branching(nn.Module):
    """Control flow that depends on the data, a residual branch, an in-place activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.second = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            return x
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        return x + self.second(self.depthwise(x))


FOLDABLE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(4, 6, 3, padding=2, dilation=2), nn.BatchNorm1d(6)), (2, 4, 9)),
    "conv2d groups": (
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, padding_mode="circular", padding=1), nn.BatchNorm2d(6)),
        (2, 4, 9, 9),
    ),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 6, 3, bias=False), nn.BatchNorm3d(6)), (2, 2, 5, 5, 5)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6)), (2, 4, 5, 5)),
    "transposed groups": (lambda: nn.Sequential(nn.ConvTranspose1d(4, 6, 3, groups=2), nn.BatchNorm1d(6)), (2, 4, 5)),
    "linear": (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), (5, 4)),
    "branching": (Branching, (2, 3, 8, 8)),
}


@pytest.mark.parametrize("name", FOLDABLE)
def test_folding_keeps_the_output(name: str) -> None:
    torch.manual_seed(0)
    make, shape = FOLDABLE[name]
    model, x = _trained(make()), torch.randn(shape)
    folded = fold_batch_norm(model, x)
    assert _norms(folded) == 0
    assert _norms(model) > 0
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)


class SharedConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.conv(x)))


class TwoReaders(SharedConv):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class AlsoReturned(SharedConv):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        y = self.conv(x)
        return torch.stack([self.norm(y), y]) if x.dim() == 3 else (self.norm(y), y)[1]


class InPlaceBetween(SharedConv):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.relu_(self.conv(x)))


class NormTwice(SharedConv):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.norm(self.conv(x)))


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


class TiedWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)))


@pytest.mark.parametrize("make", [SharedConv, TwoReaders, AlsoReturned, InPlaceBetween, NormTwice, Sequence, TiedWeight])
def test_what_cannot_be_folded_is_left(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = _trained(make())
    x = torch.randn(2, 8, 4) if make is Sequence else torch.randn(2, 3, 4, 4)
    folded = fold_batch_norm(model, x)
    assert _norms(folded) == 1
    torch.testing.assert_close(folded(x), model(x), rtol=1e-6, atol=1e-6)


def test_dataflow_names_owners_and_counts_in_place_writes_as_new_values() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True), nn.Linear(2, 2))
    flow = record(model, {"0": model[0], "2": model[2]}, lambda: model(torch.randn(1, 2)))
    assert [event.owner for event in flow.events if event.op == "relu_"] == [""]
    assert flow.sole_reader(flow.calls["0"][0].write) == ""
    assert flow.calls["0"][0].write != flow.calls["2"][0].read
