"""A task's metrics over a split: against the float network, by sweeps' evaluator, in training."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quant_core.network.trace import trace
from quant_core.qat import QatConfig
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import FLOAT, parse
from quant_core.util.errors import BitfrontError
from search import tasks
from search.config.evaluation import EvaluateSection
from search.evaluation.evaluator import Evaluator
from search.evaluation.judge import FloatOutputs, judge
from search.evaluation.measure import first_inputs, take
from search.evaluation.stages import qat_metrics
from search.tasks.batches import size_of
from search.tasks.task import Task
from spaces.rules import uniform_policy

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, :3].sum(dim=1) > 0).long() + (X[:, 3:].sum(dim=1) > 0).long()


class Net(nn.Module):
    """Classes and a value from one body."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes, self.value = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 1)
        self.calls = 0

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        hidden = self.body(features).relu()
        return {"value": self.value(hidden), "logits": self.classes(hidden)}


@pytest.fixture(scope="module")
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
        for _ in range(80):
            outputs = model(X)
            loss = nn.functional.cross_entropy(outputs["logits"], Y) + (outputs["value"][:, 0] - X[:, 0]).square().mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


def batches(**targets: Tensor) -> list[dict[str, Tensor]]:
    return [{"features": X[i : i + 16]} | {name: part[i : i + 16] for name, part in targets.items()} for i in range(0, 64, 16)]


def opened(model: nn.Module, data: Any, **changes: Any) -> Task:
    return tasks.build("mine", Task(model, data, data, data, data, **changes), {})


def evaluator_of(task: Task, **section: Any) -> Evaluator:
    return Evaluator(task, trace(task.model, first_inputs(task)), EvaluateSection(**section))


def policy(evaluator: Evaluator, text: str) -> Any:
    return uniform_policy(evaluator._layers, LayerPolicy(parse(text), FLOAT))


def test_a_policy_is_judged_by_every_metric(net: Net) -> None:
    task = opened(net, batches(labels=Y), metrics=["accuracy", "perplexity", "f1", "kld", "flips"])
    evaluator = evaluator_of(task)
    whole, coarse = evaluator.float_metrics(), evaluator(policy(evaluator, "int2:channel:mse")).metrics
    names = ["accuracy", "perplexity", "f1", "kld", "kld_q999", "flips", "error", "loss"]
    assert list(whole) == names
    assert [name for name in coarse if name in whole] == names
    assert whole["kld"] == whole["flips"] == 0.0
    assert coarse["kld_q999"] > coarse["kld"] > 0
    assert coarse["error"] == 1 - coarse["accuracy"] > whole["error"]
    quantized = nn.functional.cross_entropy(evaluator.engine.apply(policy(evaluator, "int2:channel:mse"))(X)["logits"], Y)
    assert coarse["loss"] == pytest.approx(float(quantized), rel=1e-5)
    assert coarse["perplexity"] == pytest.approx(float(quantized.exp()), rel=1e-5)


def test_figures_do_not_depend_on_the_cut_into_batches(net: Net) -> None:
    metrics = ["f1", "perplexity", "kld"]
    whole = evaluator_of(opened(net, [{"features": X, "labels": Y}], metrics=metrics))
    parts = evaluator_of(opened(net, batches(labels=Y), metrics=metrics))
    spec = policy(whole, "int4:channel:mse")
    assert parts(spec).metrics["f1"] == whole(spec).metrics["f1"]
    for name in ("perplexity", "kld", "loss"):
        assert parts(spec).metrics[name] == pytest.approx(whole(spec).metrics[name], rel=1e-5)


def test_the_named_output_is_judged(net: Net) -> None:
    task = opened(net, batches(labels=X[:, 0]), metrics=["spearman", "mae", "psnr"], output="value")
    figures = evaluator_of(task).float_metrics()
    assert 0.9 < figures["spearman"] < 1
    assert figures["error"] == 1 - figures["spearman"]
    assert figures["loss"] == pytest.approx(float((net(X)["value"][:, 0] - X[:, 0]).square().mean().detach()), rel=1e-4)


def test_the_float_network_runs_once_per_batch_as_long_as_its_outputs_fit(net: Net) -> None:
    task = opened(net, batches(labels=Y), metrics="flips")
    for most, runs in ((2**20, 4), (0, 8), (16 * 3 * 4 * 2, 6)):  # all, none, two of four batches
        floats, before = FloatOutputs(task.model, most), task.model.calls
        first, second = (judge(nn.Sequential(task.model), positional(task), task, floats) for _ in range(2))
        assert first == second
        assert task.model.calls - before == runs + 8


def positional(task: Task) -> list[Any]:
    return [((inputs["features"],), targets) for inputs, targets in task.valid]


def test_metrics_against_the_float_network_need_no_labels(net: Net) -> None:
    task = opened(net, [X[:32], X[32:]], metrics=["kld", "flips"])
    result = evaluator_of(task)(policy(evaluator_of(task), "int2:channel:mse"))
    assert result.metrics["error"] == result.metrics["loss"] == result.metrics["kld"] > 0


def test_sizes_are_honoured_in_any_structure(net: Net) -> None:
    task = opened(net, batches(labels=Y, sample_weight=torch.rand(64)), metrics="accuracy")
    taken = take(task.valid, 21)
    assert [size_of(*batch) for batch in taken] == [16, 5]
    weights = taken[1][1].weights
    assert len(weights) == 5


def test_training_minimizes_the_loss_that_fits(net: Net) -> None:
    task = opened(net, batches(labels=Y), metrics=["accuracy", "kld"])
    spec = policy(evaluator_of(task), "int2:channel:mse")
    figures = qat_metrics(task, trace(task.model, first_inputs(task)), spec, QatConfig(epochs=8, lr=0.01))
    assert figures["kld_float_valid"] == 0.0
    assert figures["loss_qat_valid"] < figures["loss_ptq_valid"]


def test_a_step_of_the_users_own_is_trained_by(net: Net) -> None:
    seen: list[Any] = []

    def step(model: nn.Module, batch: Any) -> Tensor:
        seen.append(sorted(batch))
        return nn.functional.cross_entropy(model(batch["features"])["logits"], batch["labels"])

    task = opened(net, batches(labels=Y), metrics="accuracy", training_step=step)
    result = evaluator_of(task, fidelity="qat", epochs=1)(policy(evaluator_of(task), "int4:channel:mse"))
    assert result.ok, result.reason
    assert seen == [["features", "labels"]] * 4
    assert result.epochs[0]["accuracy"] == result.metrics["accuracy"]


def test_early_stopping_reports_the_metrics(net: Net) -> None:
    evaluator = evaluator_of(opened(net, batches(labels=Y), metrics=["perplexity", "kld"]), fidelity="qat", epochs=2)
    steps = list(evaluator.steps(policy(evaluator, "int4:channel:mse"), "qat"))
    assert [step.fidelity for step in steps] == ["ptq, 16 calibration examples", "ptq", "qat, epoch 1 of 2", "qat"]
    for step in steps:
        assert {"perplexity", "kld", "kld_q999", "error", "loss"} <= set(step.metrics)


def test_outputs_that_are_not_finite_fail_the_trial(net: Net) -> None:
    task = opened(net, batches(labels=Y), metrics="accuracy")
    with pytest.raises(BitfrontError, match=r"the network returned NaN or infinity \(output of shape \(16, 3\)\)"):
        judge(Net(), [({"features": X[:16] * float("nan")}, Y[:16])], task)
    with pytest.raises(BitfrontError, match="the split is empty: no example to measure on"):
        judge(net, [], task)
