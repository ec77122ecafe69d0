"""The training split: the same order as ever where it fits in memory, all of it at random through a buffer where it does not."""

import gc
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from quant_core.network.trace import trace
from quant_core.qat.checkpoint import CheckpointConfig
from quant_core.qat.loop import TrainingRun, epochs, supervised
from quant_core.qat.train import calibrated
from quant_core.spec.policy import Policy, parse_layer_policy
from search.config.evaluation import EvaluateSection
from search.evaluation.evaluator import Evaluator
from search.evaluation.shuffling import Rows, ShuffledBatches, StreamedBatches, training_batches
from search.tasks.stream import Stream
from search.tasks.task import Batch, Task

INPUTS = torch.randn(80, 6, generator=torch.Generator().manual_seed(1))
TARGETS = (INPUTS[:, 0] * INPUTS[:, 1] > 0).long()
FITS, STREAMED = EvaluateSection(), EvaluateSection(data_mib=0)


class Loader:
    """Gives new copies of its batches, one at a time, in one order; says no length, and counts those that are alive."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes, self.passes, self.most = sizes, 0, 0
        self.alive: weakref.WeakSet[Tensor] = weakref.WeakSet()

    def __iter__(self) -> Iterator[Batch]:
        self.passes += 1
        for inputs, targets in zip(INPUTS.split(self.sizes), TARGETS.split(self.sizes), strict=True):
            copied = inputs.clone()
            self.alive.add(copied)
            self.most = max(self.most, len(self.alive))
            yield copied, targets.clone()
            del copied


def task(train: Any) -> Task:
    data = [(INPUTS, TARGETS)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2)).eval()
    return Task(model, train, data, data, data)


def rows(batches: list[Batch]) -> Counter[tuple[float, ...]]:
    return Counter(tuple(row.tolist()) for inputs, _ in batches for row in inputs)


def split_by(size: int) -> list[Batch]:
    return list(zip(INPUTS.split(size), TARGETS.split(size), strict=True))


def test_examples_are_reshuffled_in_whole_batches() -> None:
    made = training_batches(task([(x[:7], y[:7]) for x, y in split_by(8)]), FITS)
    assert isinstance(made, ShuffledBatches)
    assert len(made) == 10
    torch.manual_seed(3)
    first, second = list(made), list(made)
    assert [len(y) for _, y in first] == [7] * 10
    assert not torch.equal(first[0][0], second[0][0])
    assert rows(first) == rows(second)
    assert all(torch.equal((x[:, 0] * x[:, 1] > 0).long(), y) for x, y in first)


def test_other_batches_stay_as_they_are() -> None:
    mappings: list[Batch] = [({"input": x}, y) for x, y in split_by(8)]
    assert training_batches(task(mappings), FITS) == mappings
    ragged = [(torch.ones(2, 5), torch.ones(2)), (torch.ones(2, 4), torch.ones(2))]
    assert training_batches(task(ragged), FITS) == ragged


@pytest.mark.parametrize("train", [split_by(9), Loader((20, 7, 30, 23)), DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=9)])
def test_what_fits_is_taken_in_the_order_of_earlier_versions(train: Any) -> None:
    """They concatenated all batches and drew one permutation per epoch, in batches of the first one's size."""
    size = len(next(iter(train))[1])
    torch.manual_seed(5)
    expected = torch.randperm(80).split(size)[: 80 // size]
    torch.manual_seed(5)
    for (inputs, targets), picked in zip(training_batches(task(train), FITS), expected, strict=True):
        assert torch.equal(inputs, INPUTS[picked])
        assert torch.equal(targets, TARGETS[picked])


def test_a_list_that_is_larger_than_the_limit_keeps_its_order_without_a_copy() -> None:
    made = training_batches(task(split_by(9)), STREAMED)
    assert isinstance(made, ShuffledBatches)
    assert isinstance(made.inputs, Rows)
    torch.manual_seed(5)
    large = list(made)
    torch.manual_seed(5)
    for (inputs, targets), (x, y) in zip(training_batches(task(split_by(9)), FITS), large, strict=True):
        assert torch.equal(inputs, x)
        assert torch.equal(targets, y)


def test_a_stream_gives_every_example_once_at_random_from_a_small_buffer() -> None:
    loader = Loader((8,) * 10)
    stream = Stream("train", loader, most_bytes=0)
    made = StreamedBatches(stream, 8, 3 * 8 * (6 * 4 + 8))
    torch.manual_seed(1)
    first, second = list(made), list(made)
    assert len(made) == len(first) == 10
    assert rows(first) == rows(second) == rows(split_by(8))
    assert not torch.equal(torch.cat([x for x, _ in first]), torch.cat([x for x, _ in second]))
    assert all(torch.equal((x[:, 0] * x[:, 1] > 0).long(), y) for x, y in first)
    assert any(len({int(torch.nonzero((row == INPUTS).all(dim=1))) // 8 for row in x}) > 1 for x, _ in first), "examples are mixed"
    gc.collect()
    assert loader.most <= 5


def test_a_ragged_last_batch_is_left_out_and_other_batches_are_shuffled_whole() -> None:
    ragged = training_batches(task(Loader((32, 16, 32))), STREAMED)
    assert isinstance(ragged, StreamedBatches)
    assert [len(y) for _, y in ragged] == [32, 32]
    assert len(ragged) == 2

    class Mappings(Loader):
        def __iter__(self) -> Iterator[Batch]:
            return (({"input": x}, y) for x, y in super().__iter__())

    mapped = StreamedBatches(Stream("train", Mappings((8,) * 10), most_bytes=0), 0, 1000)
    torch.manual_seed(0)
    given = [(x["input"], y) for x, y in mapped]
    assert len(mapped) == 10
    assert rows(given) == rows(split_by(8))
    assert not torch.equal(torch.cat([x for x, _ in given]), INPUTS)


def test_a_loader_that_shuffles_does_so_anew_in_every_epoch() -> None:
    loader: Any = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=8, shuffle=True)
    made = StreamedBatches(Stream("train", loader, most_bytes=0), 0, 1)
    torch.manual_seed(0)
    first, again = list(made), list(made)
    assert not torch.equal(first[0][0], again[0][0])
    torch.manual_seed(0)
    assert torch.equal(first[0][0], next(iter(made))[0])


def test_a_streamed_training_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    made = task(Loader((8,) * 10))
    policy = Policy(dict.fromkeys(("0", "3"), parse_layer_policy("weight=int3:channel:mse,activation=int4:tensor:mse")))
    section = EvaluateSection(data_mib=0, qat={"epochs": 2, "lr": 0.05})
    calib = [INPUTS]

    def run(most: int, path: Path | None) -> tuple[nn.Module, list[dict[str, float]]]:
        steps = 0

        def step(model: nn.Module, batch: Any) -> Tensor:
            nonlocal steps
            steps += 1
            if steps > most:
                raise KeyboardInterrupt
            return supervised(made.loss)(model, batch)

        saving = CheckpointConfig(path, every=2) if path else None
        batches = StreamedBatches(Stream("train", made.train, most_bytes=0), 8, 1500)
        model = calibrated(made.model, policy, section.training, calib)
        return model, list(epochs(model, TrainingRun(batches, step, section.training, checkpoint=saving), made.model))

    path = tmp_path / "qat.pt"
    with pytest.raises(KeyboardInterrupt):
        run(7, path)
    (resumed, history), (whole, expected) = run(100, path), run(100, None)
    assert [epoch["loss"] for epoch in history] == [epoch["loss"] for epoch in expected]
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_the_training_split_is_read_once_for_all_trials() -> None:
    loader = Loader((8,) * 10)
    made = task(loader)
    section = EvaluateSection(fidelity="qat", qat={"epochs": 1})
    evaluator = Evaluator(made, trace(made.model, INPUTS), section)
    for weight in ("int3", "int4"):
        text = f"weight={weight}:channel:mse,activation=int4:tensor:mse"
        assert evaluator(Policy(dict.fromkeys(("0", "3"), parse_layer_policy(text)))).ok
    assert loader.passes == 1
