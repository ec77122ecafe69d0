"""Forward passes, counted: two calibration passes for any space, one pass per policy, whatever the cache holds and whatever the network."""

import pytest
import torch
from torch import Tensor, nn

from quant_core import Policy, parse_layer_policy
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining

CHOICES = ("weight=int4:channel:mse,activation=int8:tensor:mse", "weight=int2:channel:mse", "weight=int8:tensor:gptq", "weight=mxfp4")


class Tied(nn.Module):
    """An embedding whose weight the head shares."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.middle, self.head = nn.Embedding(16, 8), nn.Linear(8, 8), nn.Linear(8, 16, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.middle(self.table(tokens)))
        return outputs


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(6, 8, num_layers=2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.cells(x)[0][:, -1])
        return outputs


class Experts(nn.Module):
    """A stack of experts as one parameter; every token takes one."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(8, 4), nn.Parameter(torch.randn(4, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.router(x).argmax(dim=1)
        taken = [(x @ self.experts[number]) * (chosen == number)[:, None] for number in range(4)]
        return torch.stack(taken).sum(dim=0)


def convolutions() -> nn.Module:
    body = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


NETWORKS = {
    "convolutions": (convolutions, (6, 3, 8, 8)),
    "linear": (lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), (6, 8)),
    "tied": (Tied, (6, 5)),
    "recurrent": (Recurrent, (6, 5, 6)),
    "experts": (Experts, (6, 8)),
}


@pytest.mark.parametrize("at_once", [0, 2])
@pytest.mark.parametrize("cache_bytes", [0, 1, 300, 2**12, 2**16, 2**30])
@pytest.mark.parametrize("kind", NETWORKS)
def test_passes_are_those_of_the_data_whatever_the_cache(kind: str, cache_bytes: int, at_once: int) -> None:
    make, shape = NETWORKS[kind]
    torch.manual_seed(0)
    model, generator = make().eval(), torch.Generator().manual_seed(0)
    tokens = [torch.randint(16, shape, generator=generator) for _ in range(3)]
    batches = tokens if kind == "tied" else [torch.randn(shape, generator=generator) for _ in range(3)]
    layers, examples = trace(model, batches[0]), 0
    engine = PostTraining(model, layers, batches, batches[0], cache_bytes=cache_bytes, at_once=at_once)

    def count(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal examples
        examples += len(inputs[0])

    engine.model.register_forward_pre_hook(count)
    named = {layer.name: [text if layer.takes_activation else text.partition(",")[0] for text in CHOICES] for layer in layers}
    for turn in range(2 * len(CHOICES)):
        policy = Policy({name: parse_layer_policy(texts[(turn - n) % len(texts)]) for n, (name, texts) in enumerate(named.items())})
        engine.apply(policy)
        engine.restore()
        engine.apply(policy)
    assert engine.calibration_passes <= 2
    assert examples == (engine.calibration_passes - 1) * sum(map(len, batches))  # the first pass was made with the engine
    calibrated = examples
    engine.model(batches[0])
    assert examples == calibrated + len(batches[0])
