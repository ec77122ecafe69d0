"""Reconstruction as a fidelity: its figures, what is kept of it, and what is exported."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from quant_core.export.stored import Quantized
from quant_core.network.trace import trace
from quant_core.reconstruct import run
from quant_core.spec.policy import Policy, parse_layer_policy
from search.config.evaluation import EvaluateSection
from search.evaluation import reconstruction
from search.evaluation.evaluator import Evaluator
from search.evaluation.measure import measure
from search.tasks.task import Task
from spaces.rules import uniform_policy

STEPS = {"steps": 30, "lr": 0.1}


def task() -> Task:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(64, 6, generator=generator)
    batches = [(x[i : i + 32], model(x[i : i + 32]).argmax(dim=1)) for i in (0, 32)]
    return Task(model, batches, batches, batches, batches, class_axis=1)


def evaluator(given: Task, key: str = "") -> Evaluator:
    return Evaluator(given, trace(given.model, given.calib[0][0]), EvaluateSection(reconstruct=STEPS), key)


def policy_of(made: Evaluator) -> Policy:
    return uniform_policy(made.engine.layers, parse_layer_policy("weight=int2:channel:mse,activation=int4:tensor:mse"))


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the blocks that are learned."""
    counts: list[int] = []
    learn = run.learn
    monkeypatch.setattr(run, "learn", lambda *args: (counts.append(1), learn(*args))[1])
    return counts


def test_a_trial_has_the_figures_of_its_blocks_and_is_another_than_without(learned: list[int]) -> None:
    made = evaluator(task())
    policy = policy_of(made)
    before, result = made(policy, "ptq"), made(policy, "reconstruct")
    assert result.fidelity == "reconstruct"
    assert result.status == "ok", result.reason
    assert result.policy_id == policy.id
    assert result.metrics["loss"] != before.metrics["loss"]
    assert [(figures["cut"], figures.get("whole", 0.0)) for figures in result.epochs] == [(1.0, 0.0), (1.0, 1.0)]
    assert all(figures["loss"] <= figures["loss_start"] for figures in result.epochs)
    assert made.metrics(policy, "valid", "reconstruct")["loss"] == result.metrics["loss"]
    assert len(learned) == 1, "the last one is kept"


def test_what_is_exported_is_what_was_measured() -> None:
    given = task()
    made = evaluator(given)
    policy = policy_of(made)
    figures = made.metrics(policy, "test", "reconstruct")
    network = made.quantized(policy, "reconstruct")
    assert isinstance(network, Quantized)
    assert measure(network.simulation, given.test, given)["loss"] == pytest.approx(figures["loss"], rel=1e-6)
    assert all(layer.encoded is not None and layer.grid is not None for layer in network.stored)


def test_a_killed_run_goes_on_and_a_damaged_file_is_replaced(learned: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reconstruction, "cached_file", lambda _kind, name: tmp_path / f"{name}.pt")
    made = evaluator(task(), "key")
    wanted = made.metrics(policy_of(made), "valid", "reconstruct")
    again = evaluator(task(), "key")
    assert again.metrics(policy_of(again), "valid", "reconstruct") == wanted
    assert len(learned) == 1
    (path,) = tmp_path.glob("*.pt")
    path.write_bytes(path.read_bytes()[:100])
    last = evaluator(task(), "key")
    assert last.metrics(policy_of(last), "valid", "reconstruct") == wanted
    assert len(learned) == 2


def test_outputs_that_are_values_are_reconstructed_too() -> None:
    given = replace(
        task(),
        class_axis=None,
        loss=lambda out, wanted: (out[:, 0] - wanted).square().mean(),
        score=lambda out, wanted: (out[:, 0] - wanted).abs() < 1,
    )
    made = evaluator(given)
    result = made(policy_of(made), "reconstruct")
    assert result.status == "ok", result.reason
