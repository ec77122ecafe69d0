"""docs/own-task.md: its two pairs, a Lightning module and what transformers' Trainer takes, run as they are written."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import bitfront
from quant_core.network.trace import trace
from quant_core.spec.policy import parse_layer_policy
from search import tasks
from search.config.evaluation import EvaluateSection
from search.evaluation.evaluator import Evaluator
from search.evaluation.measure import first_inputs
from search.tasks.metrics import METRICS
from spaces.rules import uniform_policy

PAGE = (Path(__file__).parents[2] / "docs" / "own-task.md").read_text()


class LitNet(nn.Module):
    """A network in the form of a LightningModule: lightning itself is no dependency."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
        self.steps = 0

    @classmethod
    def load_from_checkpoint(cls, _path: str) -> "LitNet":
        return cls()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]

    def training_step(self, batch: Any, _index: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)


class LitData:
    """Loaders in the form of a LightningDataModule."""

    def setup(self, _stage: str) -> None:
        self.data = TensorDataset(torch.randn(32, 6), torch.randint(3, (32,)))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.data, batch_size=8)

    val_dataloader = test_dataloader = train_dataloader


def function(name: str, **names: Any) -> Any:
    """Return a function of the page."""
    (block,) = [text for text in re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.S | re.M) if f"def {name}()" in text]
    assert len(block.splitlines()) <= 10
    space = {"bitfront": bitfront, "DataLoader": DataLoader, **names}
    exec(block, space)
    return space[name]


def evaluated(make: Any, **section: Any) -> bitfront.Result:
    """Return the result of one policy of a page's task."""
    task = tasks.build("page", make, {})
    layers = trace(task.model, first_inputs(task))
    evaluator = Evaluator(task, layers, EvaluateSection(**section))
    return evaluator(uniform_policy(layers, parse_layer_policy("weight=int4:channel:mse,activation=float")))


def test_a_lightning_module_is_trained_by_its_own_step() -> None:
    result = evaluated(function("lightning", LitNet=LitNet, LitData=LitData), fidelity="qat", epochs=1)
    assert result.ok, result.reason
    assert {"accuracy", "f1"} <= set(result.metrics)


def test_what_a_trainer_takes_is_judged() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3
    )

    class Auto:
        """Stands in for the two Auto classes: a tiny model, and a tokenizer that pads."""

        @staticmethod
        def from_pretrained(_folder: str) -> Any:
            return transformers.BertForSequenceClassification(config)

    def collator(_tokenizer: Any) -> Any:
        def collate(rows: list[dict[str, Any]]) -> Any:
            return transformers.BatchEncoding({name: torch.tensor([row[name] for row in rows]) for name in rows[0]})

        return collate

    row = {"input_ids": [1, 2, 3, 0], "attention_mask": [1, 1, 1, 0], "labels": 1}
    names = {"AutoModelForSequenceClassification": Auto, "AutoTokenizer": Auto, "DataCollatorWithPadding": collator, "FOLDER": "mine"}
    result = evaluated(function("trainer", **names, datasets=lambda: [[row | {"labels": i % 3} for i in range(6)]] * 3))
    assert result.ok, result.reason
    assert {"accuracy", "kld", "kld_q999", "flips"} <= set(result.metrics)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE
