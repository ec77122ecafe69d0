"""A first task for a network: the inputs that are tried, and the file that is written."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitfront
from quant_core.util.errors import InputError
from search.tasks.starting import looked_at, task_source


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.memory, self.out = nn.Embedding(30, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.out(self.memory(self.words(tokens))[0])
        return result


class Named(Tagger):
    def forward(self, input_ids: Tensor) -> Tensor:
        return super().forward(input_ids)


class Boxes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, pixel_values: Tensor) -> dict[str, Any]:
        return {"names": ["box"], "levels": [self.body(pixel_values)]}


class Pair(nn.Linear):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return super().forward(first + second)


NETWORKS: dict[str, Any] = {
    "strided": lambda: nn.Sequential(nn.Conv2d(3, 4, 7, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)),
    "small": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 5)),
    "upscaler": nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2)),
    "rows": nn.Linear(7, 3),
    "series": lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 5)),
    "tagger": Tagger,
    "named": Named,
    "boxes": Boxes,
    "pair": Pair(4, 4),
    "number": 3,
    "other": lambda: "text",
}


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "own_networks", SimpleNamespace(**NETWORKS))


@pytest.mark.parametrize(
    ("name", "inputs", "metrics"),
    [
        ("strided", "torch.randn(8, 3, 224, 224)", '["kld", "flips"]'),
        ("small", "torch.randn(8, 1, 28, 28)", '["kld", "flips"]'),
        ("upscaler", "torch.randn(8, 3, 32, 32)", '"mae"'),
        ("rows", "torch.randn(64, 7)", '["kld", "flips"]'),
        ("series", "torch.randn(8, 2, 128)", '["kld", "flips"]'),
        ("tagger", "torch.randint(0, 30, (8, 32))", '["kld", "flips"]'),
        ("boxes", '{"pixel_values": torch.randn(8, 3, 32, 32)}', '"mae"'),
        ("named", '{"input_ids": torch.randint(0, 30, (8, 32))}', '["kld", "flips"]'),
    ],
)
def test_the_file_runs_as_it_stands(name: str, inputs: str, metrics: str) -> None:
    start = looked_at(f"own_networks:{name}")
    text = task_source(start)
    assert start.inputs == inputs
    assert f"metrics={metrics}" in text
    names: dict[str, Any] = {}
    exec(compile(text, "task.py", "exec"), names)
    assert all(len(line) <= 140 for line in text.splitlines())
    if name == "strided":
        return  # 20 batches of large images
    figures = bitfront.evaluate(names["task"], "weight=int8:channel:mse,activation=int8:tensor:mse")
    assert figures is not None


def test_a_network_of_unknown_inputs_leaves_a_line_to_write() -> None:
    text = task_source(looked_at("own_networks:pair"))
    assert 'raise NotImplementedError("write what the network takes' in text
    compile(text, "task.py", "exec")


@pytest.mark.parametrize(
    ("name", "message"), [("number", "a int; a torch.nn.Module, or a function that returns one"), ("other", "it gave a str")]
)
def test_what_is_no_network_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        looked_at(f"own_networks:{name}")


def test_weights_are_counted() -> None:
    assert looked_at("own_networks:rows").parameters == sum(part.numel() for part in (torch.empty(3, 7), torch.empty(3)))
