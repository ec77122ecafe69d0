"""A small network, data, and a training run of them, for the tests of the training loop."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant_core import Policy, parse_layer_policy
from quant_core.network.trace import quantizable
from quant_core.qat import QatConfig
from quant_core.qat.loop import TrainingRun, supervised
from quant_core.qat.train import train

TEXT = "weight=int3:channel:mse,activation=int4:tensor:ema"

CONFIG = QatConfig(method="lsq", epochs=3, lr=0.05)

STEP = supervised(F.cross_entropy)

Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    """Two convolutions with batch norm, dropout, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.dropout = nn.Conv2d(8, 8, 3, stride=2), nn.Dropout(0.1)
        self.last = nn.Linear(72, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.norm(self.first(x)))))
        logits: Tensor = self.last(self.dropout(x.flatten(1)))
        return logits


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().eval()


def data(count: int = 10) -> list[Batch]:
    """Batches of noise with a bright quadrant; the label says which."""
    generator = torch.Generator().manual_seed(2)
    images, labels = torch.rand(count * 16, 1, 8, 8, generator=generator), torch.randint(0, 4, (count * 16,), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = divmod(label, 2)
        image[0, 4 * top : 4 * top + 4, 4 * left : 4 * left + 4] += 0.7
    return list(zip(images.split(16), labels.split(16), strict=True))


def policy(text: str = TEXT) -> Policy:
    return Policy(dict.fromkeys(quantizable(net()), parse_layer_policy(text)))


def run(config: QatConfig = CONFIG, batches: Any = None, **options: Any) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train the network; `options` may have the `text` of the policy, its `start`, and fields of `TrainingRun`."""
    text, start, step = options.pop("text", TEXT), options.pop("start", None), options.pop("step", STEP)
    training = TrainingRun(data() if batches is None else batches, step, config, **options)
    return train(net(), policy(text), training, calib=[data()[0][0]], start=start)


def same(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)
