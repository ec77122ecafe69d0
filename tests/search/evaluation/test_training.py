"""QAT of a task: the figures side by side, and that they are those of the trained network."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from quant_core.network.trace import trace
from quant_core.qat import QatConfig
from quant_core.qat.checkpoint import CheckpointConfig
from quant_core.qat.prepare import float_weights
from quant_core.spec.policy import Policy, parse_layer_policy
from search.config.evaluation import EvaluateSection
from search.evaluation.evaluator import Evaluator
from search.evaluation.measure import first_inputs, measure
from search.evaluation.stages import qat_metrics
from search.evaluation.training import checkpoint_config, trained
from search.tasks.task import Batch, Task

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


def policy(task: Task, weight: str = "int2") -> Policy:
    layers = trace(task.model, first_inputs(task))
    return Policy({each.name: parse_layer_policy(f"weight={weight}:channel:mse,activation=int4:tensor:mse") for each in layers})


def test_metrics_of_float_ptq_and_qat_stand_side_by_side(task: Task, tmp_path: Path) -> None:
    config, layers = QatConfig(epochs=8, lr=0.05), trace(task.model, first_inputs(task))
    reported: list[dict[str, float]] = []
    saving = CheckpointConfig(tmp_path / "qat.pt")
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


def test_training_is_kept_by_key_policies_and_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path))
    config = QatConfig(epochs=2)
    first, second = (Policy({"layer": parse_layer_policy(f"weight={weight},activation=int4")}) for weight in ("int2", "int3"))
    savings = [
        checkpoint_config("net", [first, second], config),
        checkpoint_config("net", [first, second], replace(config, lr=config.lr / 2)),
        checkpoint_config("net", [first, second], replace(config, seed=1)),
        checkpoint_config("net", [second, first], config),
        checkpoint_config("net", [second], config),
        checkpoint_config("other net", [first, second], config),
    ]
    assert len({saving.path for saving in savings}) == len(savings)
    assert checkpoint_config("net", [first, second], QatConfig(epochs=2)) == savings[0]


def test_training_goes_on_from_the_weights_of_policies_before_it(task: Task) -> None:
    layers = trace(task.model, first_inputs(task))
    section = EvaluateSection(calib=16, valid=30, test=20, fidelity="qat", epochs=2, qat={"lr": 0.05, "method": "ste"})
    evaluator, first, second = Evaluator(task, layers, section), policy(task), policy(task, "int3")
    cold, warm = evaluator(second), evaluator(second, "qat", [first])
    start = float_weights(trained(task, first, section.training, section=section)[0])
    _, history = trained(task, second, section.training, section=section, start=start)
    assert warm.epochs[-1]["loss_valid"] == history[-1]["loss_valid"] != cold.epochs[-1]["loss_valid"]
    assert evaluator.metrics(second, "valid", "qat", [first])["loss"] == warm.metrics["loss"]
    assert Evaluator(task, layers, section)(second, "qat", [first]).metrics == warm.metrics


@pytest.mark.parametrize("fidelity", ["ptq", "qat"])
def test_the_last_step_is_what_a_call_gives(task: Task, fidelity: str) -> None:
    layers = trace(task.model, first_inputs(task))
    section = EvaluateSection(calib=16, valid=30, fidelity=fidelity, epochs=3, qat={"lr": 0.05, "method": "ste"})
    steps = list(Evaluator(task, layers, section).steps(policy(task), fidelity))
    whole = Evaluator(task, layers, section)(policy(task))
    assert (steps[-1].metrics, steps[-1].status, steps[-1].fidelity) == (whole.metrics, "ok", fidelity)
    assert [each["loss"] for each in steps[-1].epochs] == [each["loss"] for each in whole.epochs]
    reached = ["ptq, 7 calibration examples", "ptq", "qat, epoch 1 of 3", "qat, epoch 2 of 3"]
    assert [each.fidelity for each in steps[:-1]] == reached[: 4 if fidelity == "qat" else 1]
    assert {each.status for each in steps[:-1]} == {"stopped"}
    assert all(set(each.metrics) == {"accuracy", "error", "loss", "bits_weight_avg", "bits_activation_avg"} for each in steps[:-1])


def test_a_step_that_breaks_is_a_failed_result(task: Task) -> None:
    layers = trace(task.model, first_inputs(task))
    section = EvaluateSection(fidelity="qat", epochs=2, qat={"method": "ttq"})
    *_, last = Evaluator(task, layers, section).steps(policy(task), "qat")
    assert last.failed
    assert "covers nothing of this policy" in last.reason
