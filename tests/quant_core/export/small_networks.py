"""Small networks that the tests of several formats export."""

import torch
from torch import Tensor, nn

from quant_core.export.stored import Quantized, post_training
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy

IMAGES = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randint(0, 20, (4, 6), generator=torch.Generator().manual_seed(1))


class Mixed(nn.Module):
    """A residual network with every kind of layer that graphs take, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.shared = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.depthwise(x))
        x = torch.relu(self.shared(torch.relu(self.shared(x))))
        return self.head(self.up(x).mean(dim=(2, 3)))


class Texts(nn.Module):
    """An embedding whose weight the last layer shares."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 16), nn.Linear(16, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(tokens)))


def network(kind: str, text: str, rows: Tensor, mixed: type[nn.Module] = Mixed) -> Quantized:
    """Return a network quantized by one policy: "mixed" on images, "texts" on tokens, else two linear layers on `rows` [N, K]."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "mixed":
            model = mixed()
            model(IMAGES)
        else:
            model = Texts() if kind == "texts" else nn.Sequential(nn.Linear(rows.shape[1], 64), nn.ReLU(), nn.Linear(64, 5))
    inputs = {"mixed": IMAGES, "texts": TOKENS}.get(kind, rows)
    layers = trace(model.eval(), inputs)
    policy = Policy({layer.name: parse_layer_policy(text) for layer in layers})
    return post_training(PostTraining(model, layers, [inputs], inputs), model, layers, policy, inputs)
