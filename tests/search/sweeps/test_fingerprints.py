"""What is cached for one task is never given to another of the same weights and data."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import bitfront
from quant_core.util.errors import InputError
from search import tasks
from search.config.evaluation import EvaluateSection
from search.config.experiment import Experiment
from search.records.record import SweepRecord
from search.sweeps.context import SweepContext, check_fingerprints, open_context
from search.sweeps.fingerprints import hash_data, hash_whole_splits, task_probe
from search.tasks.stream import sized


class Network(nn.Module):
    """Two layers, and a forward pass that does something of its own between them."""

    def __init__(self, between: Callable[[Tensor], Tensor] = F.relu, dropout: float = 0.1) -> None:
        super().__init__()
        self.one, self.two, self.between, self.dropout = nn.Linear(6, 8), nn.Linear(8, 3), between, dropout

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.dropout(self.between(self.one(x)), self.dropout, self.training))


def task(model: Network) -> bitfront.Task:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.data.normal_()
        inputs, targets = torch.randn(96, 6), torch.randint(3, (96,))
    calib, valid, test = ((inputs[a : a + 32], targets[a : a + 32]) for a in (0, 32, 64))
    return bitfront.Task(model.eval(), train=[calib], calib=[calib], valid=[valid], test=[test])


def smoothed(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, label_smoothing=0.2)


def half_gradient(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy by value, with half of its gradient."""
    loss = F.cross_entropy(outputs, targets)
    return loss / 2 + loss.detach() / 2


def opened(made: bitfront.Task, **sizes: int) -> SweepContext:
    sections = {
        "task": {"name": "own"},
        "space": {"weight": ["int2:channel:mse", "int8:channel:mse"], "activation": ["int8:tensor:mse"]},
        "device": {"name": "counts"},
        "evaluate": {"fidelity": "qat", "qat": {"epochs": 1}, **sizes},
        "run": {"threads": 0},
    }
    return open_context(Experiment.model_validate(sections), made)


OTHERS = {
    "loss": (replace(task(Network()), loss=smoothed), True),
    "gradient": (replace(task(Network()), loss=half_gradient), False),
    "forward": (task(Network(torch.tanh)), True),
    "dropout": (task(Network(dropout=0.5)), False),
}
"""Tasks, and whether what is measured without training differs too."""


@pytest.mark.parametrize("other", OTHERS)
def test_equal_weights_and_data_share_nothing_where_the_task_differs(other: str) -> None:
    made, differs = OTHERS[other]
    one, again, two = opened(task(Network())), opened(task(Network())), opened(made)
    names = ("weights", "data")
    assert [one.setup.fingerprints[name] for name in names] == [two.setup.fingerprints[name] for name in names]
    policy = one.setup.space.policy([0] * len(one.setup.space.dimensions))
    savings = [context.evaluator._saving((policy,)) for context in (one, again, two)]
    paths = [saving.path for saving in savings if saving]
    assert paths[0] == paths[1] != paths[2]
    assert one.sensitivity.key == again.sensitivity.key
    assert (one.sensitivity.key != two.sensitivity.key) is differs


class Counted(Dataset[tuple[Tensor, Tensor]]):
    """Counts the examples that are read of it."""

    def __init__(self, split: Any) -> None:
        ((self.inputs, self.targets),) = split
        self.reads = 0

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.reads += 1
        return self.inputs[index], self.targets[index]


def test_a_setup_reads_what_is_asked_for_and_nothing_twice() -> None:
    made, names = task(Network()), ("train", "calib", "valid", "test")
    sets = {name: Counted(getattr(made, name)) for name in names}
    loaders: dict[str, Any] = {name: DataLoader(data, batch_size=4) for name, data in sets.items()}
    context = opened(tasks.build("own", replace(made, **loaders), {}), calib=8, valid=12, test=20)
    context.evaluator.float_metrics("valid")
    context.evaluator.float_metrics("test")
    assert context.evaluator(context.setup.space.policy([0] * len(context.setup.space.dimensions))).ok
    assert {name: data.reads for name, data in sets.items()} == {"train": 32, "calib": 8, "valid": 12, "test": 20}


def test_the_behaviour_of_a_task_is_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two keys hold it: that of trained weights and that of sensitivities."""
    probes: list[bitfront.Task] = []

    def counted(probed: bitfront.Task) -> tuple[str, ...]:
        probes.append(probed)
        return task_probe(probed)

    monkeypatch.setattr("search.sweeps.context.task_probe", counted)
    experiment = {"space": {"weight": "int8:tensor", "activation": "int8:tensor"}, "device": {"name": "counts"}}
    made = Experiment.model_validate({"task": {"name": "own"}, **experiment, "evaluate": {"ladder": ["qat"]}})
    open_context(made, task(Network()))
    assert len(probes) == 1


def test_the_reading_is_reported_in_examples() -> None:
    told: list[int] = []
    hash_data(sized(task(Network()), EvaluateSection(valid=20), hashed=True), told.append)
    assert told == [32, 52, 84]


@pytest.mark.parametrize("version", ["earlier", "present"])
def test_recorded_data_is_compared_with_the_hash_of_its_kind(version: str, make_sweep: Callable[[str], SweepRecord]) -> None:
    """Version 0.1.0 hashed type, shape and bytes of every tensor of calib, valid and test, whatever the sizes."""
    made, other = task(Network()), task(Network())
    other = replace(other, valid=[(x + 1, y) for x, y in other.valid])
    one, two = opened(made, calib=8).setup, opened(other, calib=8).setup
    tensors = [tensor for split in (made.calib, made.valid, made.test) for batch in split for tensor in batch]
    content = b"".join(f"{tensor.dtype}{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes() for tensor in tensors)
    earlier = hashlib.sha256(content).hexdigest()[:16]
    assert hash_whole_splits(made.calib, made.valid, made.test) == earlier
    assert one.fingerprints["data"].startswith("2:")
    recorded = replace(make_sweep("earlier"), fingerprints={"data": earlier if version == "earlier" else one.fingerprints["data"]})
    check_fingerprints(recorded, one, ["data"])
    with pytest.raises(InputError, match="is bound to other data than what the experiment now gives"):
        check_fingerprints(recorded, two, ["data"])
