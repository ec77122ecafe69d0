"""Splits are read as far as their size, once where they fit in memory, and batch by batch where they do not."""

import gc
import pickle
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from quant_core.network.trace import trace
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.util.errors import BitfrontError, InputError
from search import tasks
from search.config.evaluation import EvaluateSection
from search.evaluation.evaluator import Evaluator
from search.evaluation.measure import measure
from search.tasks.images import Batches, Images
from search.tasks.stream import FewExamplesWarning, Stream, sized
from search.tasks.task import Batch, Task

INPUTS, TARGETS = torch.randn(120, 3, generator=torch.Generator().manual_seed(0)), torch.arange(120) % 2
POLICY = Policy({"0": parse_layer_policy("weight=int4:channel:mse,activation=int8:tensor:mse")})


class Counting(Dataset[Batch]):
    """Counts the examples that are read of it."""

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return len(INPUTS)

    def __getitem__(self, index: int) -> Batch:
        self.reads += 1
        return INPUTS[index], TARGETS[index]


class Fresh:
    """An iterable without a length that gives new copies in batches of given sizes, and knows how many are alive at once."""

    def __init__(self, *sizes: int, passes: int = 1000) -> None:
        self.sizes, self.passes, self.most, self.batches = sizes, passes, 0, 0
        self.alive: weakref.WeakSet[Tensor] = weakref.WeakSet()

    def __iter__(self) -> Iterator[Batch]:
        self.passes -= 1
        if self.passes < 0:
            return
        for inputs, targets in zip(INPUTS[: sum(self.sizes)].split(self.sizes), TARGETS[: sum(self.sizes)].split(self.sizes), strict=True):
            copied = inputs.clone()
            self.alive.add(copied)
            self.batches, self.most = self.batches + 1, max(self.most, len(self.alive))
            yield copied, targets.clone()
            del copied


def loader(dataset: Any, batch: int = 8, **options: Any) -> Any:
    return DataLoader(dataset, batch_size=batch, **options)


def task(**splits: Any) -> Task:
    data = [(INPUTS, TARGETS)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 2)).eval()
    return Task(model, **{name: splits.get(name, data) for name in ("train", "calib", "valid", "test")})


def evaluator(made: Task, **sizes: int) -> Evaluator:
    return Evaluator(made, trace(made.model, INPUTS), EvaluateSection(**sizes))


def same(one: Iterable[Batch], two: Iterable[Batch]) -> bool:
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("shuffle", [False, True])
def test_no_example_is_read_that_is_not_asked_for_and_none_twice(shuffle: bool) -> None:
    sets = {name: Counting() for name in ("train", "calib", "valid", "test")}
    made = tasks.build("own", task(**{name: loader(data, shuffle=shuffle) for name, data in sets.items()}), {})
    section = {"calib": 16, "valid": 24, "test": 40}
    measured = evaluator(sized(made, EvaluateSection(**section), hashed=True), **section)
    for _ in range(2):
        measured.float_metrics("valid")
        assert measured(POLICY).ok
        assert measured.metrics(POLICY, "test")
    assert {name: data.reads for name, data in sets.items()} == {"train": 8, **section}


def test_a_size_within_a_batch_cuts_it() -> None:
    data = Counting()
    stream = Stream("valid", loader(data), 20)
    assert [len(targets) for _, targets in stream] == [8, 8, 4]
    assert data.reads == 24
    assert same(stream, [(INPUTS[:8], TARGETS[:8]), (INPUTS[8:16], TARGETS[8:16]), (INPUTS[16:20], TARGETS[16:20])])


@pytest.mark.parametrize("mib", [0, 512])
def test_batches_of_any_sizes_without_a_length_are_measured_alike_streamed_or_kept(mib: int) -> None:
    made = task(valid=Fresh(7, 1, 30, 2), test=Fresh(5, 5))
    measured = evaluator(made, data_mib=mib)
    expected = measure(made.model, [(INPUTS[:40], TARGETS[:40])], made)
    assert measured.float_metrics() == pytest.approx(expected)
    assert measured.metrics(POLICY, "valid") == measured.metrics(POLICY, "valid")
    assert measured(POLICY).metrics["loss"] == evaluator(made)(POLICY).metrics["loss"]
    assert measured.float_metrics("test")["loss"] == pytest.approx(measure(made.model, [(INPUTS[:10], TARGETS[:10])], made)["loss"])


def test_what_exceeds_the_limit_never_lies_in_memory_whole() -> None:
    limit = 3 * (4 * 3 * 4 + 4 * 8)  # three batches
    source = Fresh(*[4] * 30)
    stream = Stream("valid", source, most_bytes=limit)
    assert sum(len(targets) for _, targets in stream) == 120
    assert source.most <= 3 + 3
    source.most = 0
    for _ in range(3):
        assert sum(len(targets) for _, targets in stream) == 120
    gc.collect()
    assert source.most <= 3
    assert source.batches == 4 * 30, "the first pass is one pass, before and after the limit"
    assert stream.kept is None


def test_what_fits_the_limit_is_read_once() -> None:
    source = Fresh(*[4] * 30)
    stream = Stream("valid", source, most_bytes=30 * (4 * 3 * 4 + 4 * 8))
    assert same(stream, stream)
    assert source.batches == 30


@pytest.mark.parametrize("limit", [0, None])
def test_shuffling_and_noise_are_alike_in_every_pass_and_leave_the_callers_alone(limit: int | None) -> None:
    def noisy(batch: list[Any]) -> Batch:
        inputs, targets = zip(*batch, strict=True)
        return torch.stack(inputs) + torch.rand(()), torch.stack(targets)

    stream = Stream("valid", loader(TensorDataset(INPUTS, TARGETS), shuffle=True, collate_fn=noisy), 40, limit)
    torch.manual_seed(7)
    expected, drawn = list(stream), torch.rand(3)
    torch.manual_seed(7)
    between = [(batch, torch.rand(()))[0] for batch in stream]
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), drawn)
    assert same(expected, between)
    assert not torch.equal(expected[0][0], INPUTS[:8])


def test_fewer_examples_than_asked_for_are_told() -> None:
    stream = Stream("valid", Fresh(8, 8), 100)
    with pytest.warns(FewExamplesWarning, match=r"valid = 100 examples given; the task has 16 there, and all of them are used"):
        assert len(list(stream)) == 2
    assert len(list(stream)) == 2, "told once"


@pytest.mark.parametrize("mib", [0, 512])
def test_a_source_that_can_be_read_only_once_is_refused_or_kept(mib: int) -> None:
    with pytest.raises(InputError, match=r"task 'own': its valid is a generator; .* put it into an object whose __iter__ calls the gen"):
        tasks.build("own", task(valid=(batch for batch in [(INPUTS, TARGETS)])), {})

    class Once(IterableDataset[Batch]):
        def __init__(self) -> None:
            self.rest = iter(zip(INPUTS, TARGETS, strict=True))

        def __iter__(self) -> Iterator[Batch]:
            return self.rest

    measured = evaluator(tasks.build("own", task(valid=loader(Once(), 30)), {}), data_mib=mib)
    measured.float_metrics()
    if mib:
        assert measured(POLICY).ok
    else:
        assert "valid gave 120 examples in 4 batches at first, and 0 in 0 now; give what can be read again" in measured(POLICY).reason


def test_an_empty_split_and_other_batches_are_refused() -> None:
    with pytest.raises(InputError, match="task 'own': its valid is empty; every one of train, calib, valid, test needs"):
        tasks.build("own", task(valid=Fresh()), {})
    later: list[Any] = [(INPUTS, TARGETS), INPUTS]
    with pytest.raises(InputError, match=r"valid gives batches of type Tensor; every batch must be \(inputs, targets\)"):
        list(Stream("valid", later))


def test_a_source_that_fails_midway_is_begun_anew() -> None:
    class Fails(Fresh):
        fail = True

        def __iter__(self) -> Iterator[Batch]:
            for number, batch in enumerate(super().__iter__()):
                if self.fail and number == 2:
                    raise OSError("the disk is gone")
                yield batch

    source = Fails(8, 8, 8, 8)
    stream = Stream("valid", source)
    with pytest.raises(BitfrontError, match="valid fails at batch 3 with OSError: the disk is gone"):
        list(stream)
    source.fail = False
    assert [len(targets) for _, targets in stream] == [8, 8, 8, 8]


def test_one_loader_may_serve_two_splits() -> None:
    class Cursor(Fresh):
        """Has one position for all of its passes."""

        def __iter__(self) -> Iterator[Batch]:
            self.position = 0
            while self.position < 4:
                self.position += 1
                part = slice(8 * self.position - 8, 8 * self.position)
                yield INPUTS[part], TARGETS[part]

    cursor = Cursor()
    made = sized(tasks.build("own", task(calib=cursor, valid=cursor), {}), EvaluateSection(calib=16))
    assert [len(targets) for _, targets in made.calib] == [8, 8]
    assert same(made.valid, Cursor())


def test_a_worker_gets_the_batches_that_it_needs() -> None:
    made = sized(task(train=Fresh(8), valid=Fresh(8, 8), test=Fresh(8)), EvaluateSection())
    for split in (made.train, made.valid, made.test):
        list(split)
    sent: list[Any] = [pickle.loads(pickle.dumps(split.__getstate__() | {"source": None})) for split in (made.train, made.valid, made.test)]  # type: ignore[attr-defined]
    assert [len(state["_kept"]) for state in sent] == [0, 2, 0]
    assert all(state["_open"] is None for state in sent)


def test_the_data_sets_own_fingerprint_stands_for_its_contents() -> None:
    class Named(Counting):
        _fingerprint = "a41f"

    data = Named()
    prints = [
        Stream("test", loader(data, **options), 40, hashed=True).fingerprint() for options in ({}, {}, {"shuffle": True}, {"batch": 4})
    ]
    assert data.reads == 3 * 8 + 4, "one batch each"
    assert len(set(prints)) == 3
    Named._fingerprint = "other"
    assert Stream("test", loader(data), 40, hashed=True).fingerprint() not in prints


def test_contents_and_sizes_decide_about_a_fingerprint() -> None:
    def of(data: list[Batch], examples: int = 0) -> str:
        return Stream("test", data, examples, hashed=True).fingerprint()

    whole = of([(INPUTS, TARGETS)])
    assert whole == of([(INPUTS.clone(), TARGETS.clone())])
    assert whole not in (
        of([(INPUTS + 1, TARGETS)]),
        of([(INPUTS, TARGETS + 1)]),
        of([(INPUTS, TARGETS)], 40),
        of([(INPUTS.double(), TARGETS)]),
    )
    assert of([({"x": INPUTS, "scale": 2.0}, TARGETS)]) != of([({"x": INPUTS, "scale": 3.0}, TARGETS)])


def test_images_in_memory_are_no_second_time_kept_as_floats() -> None:
    pixels = torch.randint(0, 256, (10, 3, 4, 4), dtype=torch.uint8)
    batches = Batches(Images(pixels, torch.arange(10)), 4)
    task = sized(Task(nn.Flatten(), batches, batches, batches, batches), EvaluateSection(valid=7), hashed=True)
    for name, examples in (("valid", 7), ("test", 10)):
        stream = getattr(task, name)
        assert len(stream.first()[1]) == 4
        assert stream.whole().examples == examples
        assert stream._kept is None
        assert torch.equal(torch.cat([inputs for inputs, _ in stream]), batches.scale(pixels[:examples]))
    assert len(task.calib.kept) == 3
    assert len(task.train.kept) == 3
