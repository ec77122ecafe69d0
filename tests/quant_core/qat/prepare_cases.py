"""Networks with shared, tied and transposed layers, prepared and trained by a few steps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core import Policy, parse_layer_policy
from quant_core.network.forward import forward
from quant_core.network.statistics import collect
from quant_core.network.trace import quantizable, trace
from quant_core.qat import QatConfig
from quant_core.qat.optimizers import make_optimizer
from quant_core.qat.prepare import constrain, prepare

transformers = pytest.importorskip("transformers")


class Branching(nn.Module):
    """A layer called twice, a depthwise and a transposed convolution, batch norm, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.shared = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = x + F.relu(self.shared(self.shared(x)))
        logits: Tensor = self.head(self.up(x).mean(dim=(2, 3)))
        return logits


class Tokens(nn.Module):
    """An embedding tied to the output layer, and transformers' Conv1D between them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.middle = transformers.pytorch_utils.Conv1D(8, 8)
        self.out = nn.Linear(8, 12, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(torch.tanh(self.middle(self.embedding(x))))
        return logits


def example(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if isinstance(model, Tokens):
        return torch.randint(0, 12, (4, 6), generator=generator)
    return torch.randn(4, 3, 8, 8, generator=generator)


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def prepared(model: nn.Module, text: str, method: str = "ste") -> nn.Module:
    inputs = example(model)
    statistics = collect(model.eval(), trace(model, inputs), [inputs])
    return prepare(model, Policy(dict.fromkeys(quantizable(model), parse_layer_policy(text))), method, statistics=statistics)


def take_steps(model: nn.Module, count: int = 3) -> None:
    optimizer = make_optimizer(model.train(), QatConfig(lr=0.05))
    for _ in range(count):
        optimizer.zero_grad()
        outputs = forward(model, example(model))
        F.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), torch.arange(outputs.numel() // outputs.shape[-1]) % 5).backward()
        optimizer.step()
        constrain(model)
