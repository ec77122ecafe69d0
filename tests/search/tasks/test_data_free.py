"""Calibration without data: made once of the network's batch norms, for the shape that the data have, whatever they hold."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from quant_core.network import batch_norms
from quant_core.network.trace import trace
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.util.errors import InputError
from search import tasks
from search.config.evaluation import EvaluateSection
from search.evaluation.evaluator import Evaluator
from search.tasks.batches import size_of
from search.tasks.stream import sized
from search.tasks.task import Batch, Task

SECTION = EvaluateSection(calib_from="batch_norms", calib=20)


class Once:
    """A split of which the first batch alone may be read."""

    def __iter__(self) -> Iterator[Batch]:
        yield torch.rand(4, 3), torch.zeros(4, dtype=torch.long)
        raise AssertionError("the second batch was read")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """A list with an entry per time that inputs are made; the cache is empty."""
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    counts: list[int] = []
    make = batch_norms.synthetic_inputs

    def counting(model: nn.Module, shape: list[int], count: int) -> list[Tensor]:
        counts.append(count)
        return make(model, shape, count, steps=40)

    monkeypatch.setattr(batch_norms, "synthetic_inputs", counting)
    return counts


def task(calib: object = (), valid: object = None, model: nn.Module | None = None) -> Task:
    torch.manual_seed(0)
    pairs = [(torch.rand(4, 3), torch.zeros(4, dtype=torch.long))] * 2
    model = model or nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).eval()
    return Task(model, pairs, calib, pairs if valid is None else valid, pairs)  # type: ignore[arg-type]


@pytest.mark.parametrize("calib", [(), Once()])
def test_inputs_are_made_once_and_kept_and_no_data_are_read_but_a_shape(calib: object, made: list[int]) -> None:
    first, second = (sized(task(calib), SECTION, hashed=True) for _ in range(2))
    assert made == [20]
    assert sized(first, SECTION).calib is first.calib, "what was made is not made again"
    inputs, targets = (torch.cat(parts) for parts in zip(*first.calib, strict=True))
    assert torch.equal(inputs, torch.cat([x for x, _ in second.calib]))
    assert inputs.shape == (20, 3)
    assert torch.equal(targets, first.model(inputs).argmax(dim=1)), "the network's own classes"
    sized(task(model=nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()), SECTION)
    sized(task(), replace_calib(0))
    assert made == [20, 20, 64], "another network, another number: made anew"


def replace_calib(count: int) -> EvaluateSection:
    return SECTION.model_copy(update={"calib": count})


def test_outputs_that_are_no_classes_are_their_own_targets(made: list[int]) -> None:
    values = replace(task(), metrics=["mae"])
    first = next(iter(sized(values, SECTION).calib))
    torch.testing.assert_close(first[1], values.model(first[0]))


def test_what_cannot_be_made_is_refused(made: list[int]) -> None:
    tokens = [(torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, dtype=torch.long))]
    with pytest.raises(InputError, match=r"makes one float tensor, and the network takes torch\.int64 tensors; give calibration data\."):
        sized(task(valid=tokens), SECTION)
    with pytest.raises(InputError, match="takes a dict"):
        sized(task(valid=[({"x": torch.rand(2, 3)}, torch.zeros(2))]), SECTION)
    with pytest.raises(InputError, match="Sequential has no batch norm"):
        sized(task(model=nn.Sequential(nn.Linear(3, 2)).eval()), SECTION)
    with pytest.raises(InputError, match="calibration and validation splits are empty"):
        sized(task(valid=()), SECTION)


def test_digits_lose_little_without_data_where_noise_loses_much(made: list[int]) -> None:
    digits = tasks.load("digits", {})
    layers = trace(digits.model, torch.zeros(1, 1, 8, 8))
    policy = Policy(
        dict.fromkeys((layer.name for layer in layers), parse_layer_policy("weight=int4:channel:mse,activation=int4:tensor:mse"))
    )
    section = EvaluateSection(calib_from="batch_norms", calib=64)
    evaluator = Evaluator(digits, layers, section)
    assert sum(size_of(*batch) for batch in evaluator._task.calib) == 64
    noise = replace(digits, calib=[(torch.randn(64, 1, 8, 8), torch.zeros(64, dtype=torch.long))])
    ours, data, theirs = (
        Evaluator(*given).metrics(policy, "valid")["loss"]
        for given in ((digits, layers, section), (digits, layers, EvaluateSection(calib=64)), (noise, layers, EvaluateSection()))
    )
    assert ours < 2 * data < theirs
