"""The small network, its data and the engine that the tests of `PostTraining` share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core import Policy, parse_layer_policy
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining


class Branching(nn.Module):
    """Shared layer called twice, a residual, control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.shared = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = x + F.relu(self.shared(self.shared(x)))
        if x.mean() > -1e9:
            x = self.up(x)
        return self.head(x.mean(dim=(2, 3)))


def images(batches: int = 2, size: int = 16) -> list[Tensor]:
    """Return batches of random images."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(size, 3, 8, 8, generator=generator) for _ in range(batches)]


def engine(model: nn.Module, batches: list[Tensor], bias_correction: bool = True, cache_bytes: int = 2**20) -> PostTraining:
    layers = trace(model, batches[0])
    return PostTraining(model, layers, batches, batches[0], bias_correction=bias_correction, cache_bytes=cache_bytes)


def uniform(model: nn.Module, batches: list[Tensor], text: str) -> Policy:
    return Policy({layer.name: parse_layer_policy(text) for layer in trace(model, batches[0])})


def branching() -> nn.Module:
    torch.manual_seed(0)
    model = Branching()
    with torch.no_grad():
        for batch in images(20):
            model(batch)
    return model.eval()
