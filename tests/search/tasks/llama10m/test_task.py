"""The task: sequences, targets, metrics, options; on stand-in weights and tokens."""

from typing import Any

import pytest
import torch
from torch import nn

from quant_core.util.errors import InputError
from search import tasks
from search.tasks.llama10m import task as module


class Echo(nn.Module):
    """Stands in for the Llama: logits of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(32, 32)

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        return type("Outputs", (), {"logits": self.table(input_ids)})()


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tokens = {split: torch.randint(32, (401,)) for split in ("train", "valid", "test")}
    monkeypatch.setattr(module, "weights_and_tokens", lambda _recipe: (Echo().eval(), tokens))


def test_targets_are_the_tokens_that_come_next() -> None:
    made = tasks.load("llama10m", {"length": 20, "valid_size": 5, "test_size": 7, "calib_size": 3, "batch_size": 4})
    (first, targets), (second, _) = made.valid
    assert (first.shape, second.shape) == ((4, 20), (1, 20))
    assert torch.equal(first[:, 1:], targets[:, :-1])
    assert torch.equal(targets[:3, -1], first[1:, 0])  # windows follow each other
    assert sum(len(inputs) for inputs, _ in made.train) == 20
    assert [info.name for info in made.infos] == ["perplexity", "accuracy", "kld", "kld_q999", "flips"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 513}, "length = 513: give a whole number from 1 to 512"),
        ({"length": 100, "valid_size": 5}, "valid_size = 5: give a whole number from 1 to 4"),
        ({"seed": -1}, "seed = -1: give a whole number of at least 0"),
        ({"batch_size": 0}, "batch_size = 0: give a whole number of at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tasks.load("llama10m", {"calib_size": 1, "valid_size": 1, "test_size": 1, **options})
