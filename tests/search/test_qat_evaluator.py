"""QAT of a task: the figures side by side, and that they are those of the trained network."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from quant_core.policy import Policy, parse_layer_policy
from quant_core.qat import QatConfig
from quant_core.qat.loop import Saving
from quant_core.trace import trace
from search.evaluator import first_inputs, measure
from search.experiment_evaluate import EvaluateSection
from search.qat_evaluator import Reshuffled, qat_metrics, trained, training_batches
from search.task import Batch, Task

SECTION = EvaluateSection(calib=16, valid=30, test=20)


def batches(count: int, seed: int) -> list[Batch]:
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return list(zip(inputs.split(8), (inputs[:, 0] * inputs[:, 1] > 0).long().split(8), strict=True))


@pytest.fixture(scope="module")
def task() -> Task:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            for inputs, targets in batches(80, 1):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
    return Task(model.eval(), batches(80, 1), batches(24, 2), batches(40, 3), batches(40, 4))


def policy(task: Task) -> Policy:
    layers = trace(task.model, first_inputs(task))
    return Policy({each.name: parse_layer_policy("weight=int2:channel:mse,activation=int4:tensor:mse") for each in layers})


def test_metrics_of_float_ptq_and_qat_stand_side_by_side(task: Task, tmp_path: Path) -> None:
    config, layers = QatConfig(epochs=8, lr=0.05), trace(task.model, first_inputs(task))
    reported: list[dict[str, float]] = []
    saving = Saving(tmp_path / "qat.pt")
    found = qat_metrics(
        task, layers, policy(task), config, section=SECTION, saving=saving, report=lambda m: bool(reported.append(m)) if m else False
    )
    keys = {
        f"{metric}_{kind}_{split}" for metric in ("accuracy", "loss") for kind in ("float", "ptq", "qat") for split in ("valid", "test")
    }
    assert set(found) == keys | {"epochs", "seconds_qat"}
    assert found["epochs"] == 8
    assert found["loss_qat_valid"] < found["loss_ptq_valid"]
    assert found["accuracy_float_valid"] >= 0.75
    assert reported[-1]["loss_valid"] == pytest.approx(found["loss_qat_valid"])
    assert reported[-1]["accuracy"] == pytest.approx(found["accuracy_qat_valid"])
    again, history = trained(task, policy(task), config, section=SECTION, saving=saving)
    assert len(history) == 8
    assert measure(again, task.test, task)["loss"] != found["loss_qat_test"]  # 20 of the 40 examples were asked for above


def test_stopping_and_the_seed_reach_the_loop(task: Task) -> None:
    config = QatConfig(epochs=4, lr=0.05)
    stopped, history = trained(task, policy(task), config, section=SECTION, report=lambda metrics: metrics["epoch"] == 2)
    again, _ = trained(task, policy(task), config, section=SECTION, report=lambda metrics: metrics["epoch"] == 2)
    other, _ = trained(task, policy(task), replace(config, seed=1), section=SECTION, report=lambda metrics: metrics["epoch"] == 2)
    assert len(history) == 2
    assert all(torch.equal(a, b) for a, b in zip(stopped.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(stopped.parameters(), other.parameters(), strict=True))


def test_examples_are_reshuffled_in_whole_batches(task: Task) -> None:
    made = training_batches(replace(task, train=[(x[:7], y[:7]) for x, y in task.train]))
    assert isinstance(made, Reshuffled)
    assert len(made) == 10
    torch.manual_seed(3)
    first, second = list(made), list(made)
    assert [len(y) for _, y in first] == [7] * 10
    assert not torch.equal(first[0][0], second[0][0])
    stacked = torch.cat([x for x, _ in first])
    assert torch.equal(stacked.sort(dim=0).values, made.inputs.sort(dim=0).values)
    assert all(torch.equal((x[:, 0] * x[:, 1] > 0).long(), y) for x, y in first)


def test_other_batches_stay_as_they_are(task: Task) -> None:
    mappings: list[Batch] = [({"input": x}, y) for x, y in task.train]
    assert training_batches(replace(task, train=mappings)) == mappings
    ragged = [(torch.ones(2, 5), torch.ones(2)), (torch.ones(2, 4), torch.ones(2))]
    assert training_batches(replace(task, train=ragged)) == ragged
