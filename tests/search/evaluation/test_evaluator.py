"""Measuring a network: what a task's score and loss may be, loaders that shuffle, networks with noise in them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import parse
from quant_core.util.errors import BitfrontError
from search.config.evaluation import EvaluateSection
from search.evaluation.evaluator import Evaluator
from search.evaluation.measure import first_inputs, measure, take
from search.evaluation.sensitivity import Sensitivity
from search.tasks.task import Task
from spaces.rules import full

X, Y = torch.linspace(-1, 1, 36).reshape(12, 3), torch.arange(12) % 2


def task(model: nn.Module | None = None, **changes: Any) -> Task:
    batches = [(X[:8], Y[:8]), (X[8:], Y[8:])]
    return Task(model or nn.Linear(3, 2), batches, batches, batches, batches, **changes)


def hits(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.argmax(dim=1) == targets


def _no_memory() -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


BAD = {
    "a mean": (
        {"score": lambda o, t: hits(o, t).float().mean()},
        r"score gave a tensor of shape \(\) \(outputs of shape .8, 2., .* a tensor of shape .8,.",
    ),
    "a number": (
        {"score": lambda o, t: float(hits(o, t).float().mean())},
        "score gave a float .*one score in .0, 1. per example is needed",
    ),
    "every pair": ({"score": lambda o, t: (o.argmax(dim=1)[:, None] == t).float()}, r"score gave a tensor of shape \(8, 8\)"),
    "a score that raises": ({"score": lambda o, t: o.argmax(dim=7)}, "score or loss failed with IndexError: Dimension out of range"),
    "a loss per example": ({"loss": lambda o, t: nn.functional.cross_entropy(o, t, reduction="none")}, "score or loss failed with"),
    "no memory left": ({"score": lambda o, t: _no_memory()}, "CUDA out of memory.*The memory ran out: let the task give smaller batches"),
    "percent": ({"score": lambda o, t: 100.0 * (t >= 0)}, r"score gave 100 for an example; scores in \[0, 1\] are needed"),
}


@pytest.mark.parametrize("case", BAD)
def test_scores_and_losses_of_another_kind_are_refused(case: str) -> None:
    changes, message = BAD[case]
    with pytest.raises(BitfrontError, match=message):
        measure(nn.Linear(3, 2), task().valid, task(**changes))


def test_targets_out_of_range_say_so() -> None:
    with pytest.raises(BitfrontError, match=r"failed with IndexError: Target .* is out of bounds.*outputs of shape \(12, 2\), targets"):
        measure(nn.Linear(3, 2), [(X, Y + 5)], task())


@pytest.mark.parametrize("score", [hits, lambda o, t: hits(o, t).double()])
def test_scores_of_any_type_count_per_example(score: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = nn.Linear(3, 2)
    expected = float(hits(model(X), Y).double().mean())
    assert measure(model, task().valid, task(score=score))["accuracy"] == pytest.approx(expected)


def test_loader_that_shuffles_gives_the_same_order_every_time() -> None:
    loader: Any = DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True)
    one, two = take(loader, 0), take(loader, 0)
    assert not torch.equal(one[0][0], X[:4]), "it does shuffle"
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(one, two, strict=True))
    assert torch.equal(first_inputs(Task(nn.Linear(3, 2), loader, loader, loader, loader)), one[0][0])


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + torch.randn_like(x))


def test_noise_in_a_network_is_the_same_every_time() -> None:
    model = Noisy()
    assert measure(model, task().valid, task()) == measure(model, task().valid, task())


def test_cutting_batches_keeps_what_has_no_examples() -> None:
    inputs = {"x": X, "pair": (X, [X]), "scale": torch.tensor(2.0), "name": "same"}
    ((cut, targets),) = take([(inputs, Y)], 5)
    assert len(targets) == len(cut["x"]) == len(cut["pair"][0]) == len(cut["pair"][1][0]) == 5
    assert (float(cut["scale"]), cut["name"]) == (2.0, "same")


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_sensitivities_of_a_network_that_gives_one_number_per_example(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Softmax says nothing of one number: two bits must hurt more than four, and neither depend on the outputs' unit."""
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    rises, x = [], torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    for unit in (1.0, 1000.0):
        body, generator = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1, bias=False)), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in body.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            body[2].weight *= unit
        model = nn.Sequential(body, nn.Flatten(0)) if shape == (-1,) else body
        layers = trace(model, x)
        space = full(layers, {"weight": [parse("int2:channel"), parse("int4:channel"), parse("int8:channel")]})
        found = Sensitivity(PostTraining(model, layers, [x], x), space, [x], f"{shape} {unit}")()
        assert all(each[0] > each[1] > each[2] == 0 for each in found)
        rises.append(torch.tensor([each.tolist() for each in found]))
    torch.testing.assert_close(rises[0], rises[1], rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("loss", [float("inf"), float("-inf"), float("nan")])
def test_a_loss_that_is_not_finite_fails_the_trial(loss: float) -> None:
    with pytest.raises(BitfrontError, match=r"loss is .*; a finite one is needed"):
        measure(nn.Linear(3, 2), task().valid, task(loss=lambda o, t: nn.functional.cross_entropy(o, t) + loss))


def test_every_single_score_is_in_the_unit_interval() -> None:
    """The mean of 3, -1 and ones is 1."""

    def score(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.cat([torch.tensor([3.0, -1.0]), torch.ones(len(targets) - 2)])

    with pytest.raises(BitfrontError, match=r"score gave 3 for an example; scores in \[0, 1\] are needed"):
        measure(nn.Linear(3, 2), task().valid, task(score=score))
    with pytest.raises(BitfrontError, match="score gave nan for an example"):
        measure(nn.Linear(3, 2), task().valid, task(score=lambda o, t: hits(o, t).float() * float("nan")))


class Counted(nn.Sequential):
    """Counts the examples of every call."""

    sizes: list[int]

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        outputs: Tensor = super().forward(x)
        return outputs


class Mean(nn.Module):
    """The mean over axis 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


@pytest.mark.parametrize(("activation", "sizes"), [("int8:tensor", [10, 10, 10, 10]), ("int8:tensor:dynamic", [40])])
def test_large_batches_run_in_parts_unless_their_range_is_that_of_the_batch(
    activation: str, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Counted(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    model.sizes = []
    images = [(torch.rand(40, 3, 12, 12), torch.arange(40) % 2)]
    of_images = Task(model, images, images, images, images)
    layers = trace(model, images[0][0])
    policy = Policy({layer.name: LayerPolicy(parse("int8:channel"), parse(activation)) for layer in layers})
    whole = Evaluator(of_images, layers, EvaluateSection())
    expected = whole.metrics(policy, "valid")
    monkeypatch.setattr("quant_core.network.apart.part_size.__defaults__", (2**16,))
    cut = Evaluator(of_images, layers, EvaluateSection())
    counted = cut.engine.model.sizes
    counted.clear()
    assert cut.metrics(policy, "valid") == pytest.approx(expected, rel=1e-5)
    assert max(counted) == max(sizes)
    assert counted[-len(sizes) :] == sizes


def test_a_quantized_network_comes_with_batches_of_other_lengths() -> None:
    splits = [[(torch.rand(4, length, 3), Y[:4]) for length in lengths] for lengths in ((5, 5), (5, 6), (7, 5))]
    model = nn.Sequential(nn.Linear(3, 2), Mean()).eval()
    lengths = Task(model, splits[0], *splits)
    layers = trace(model, splits[0][0][0])
    policy = Policy({layer.name: LayerPolicy(parse("int8:channel"), parse("int8:tensor")) for layer in layers})
    network = Evaluator(lengths, layers, EvaluateSection()).quantized(policy)
    assert [other.shape[1] for other in network.others] == [6]
