"""Races over the validation split: what is compared, when, how surely, and that the end of a race is what it is without one."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from quant_core.network.trace import trace
from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import FLOAT, parse
from search.config.evaluation import EvaluateSection
from search.evaluation.evaluator import Evaluator
from search.evaluation.measure import first_inputs
from search.evaluation.racing import Course, Incumbent, OutrunError, UnfitError, Watch, check, example_values, paired
from search.tasks.metrics.state import Judged
from search.tasks.task import Task
from tests.search.own_task import trained

CLASSES = 3


def task(size: int = 20, **changes: Any) -> Task:
    """Return a trained network; its 300 validation examples come in batches of `size`."""
    model, inputs, targets = trained()
    valid = list(zip(torch.split(inputs[400:], size), torch.split(targets[400:], size), strict=True))
    return Task(model, [], [(inputs[:128], targets[:128])], valid, valid, **changes)


def evaluator(of: Task) -> Evaluator:
    return Evaluator(of, trace(of.model, first_inputs(of)), EvaluateSection())


def policy(weight: str = "int8:channel:mse") -> Policy:
    return Policy({name: LayerPolicy(parse(weight), FLOAT) for name in ("0", "2", "4")})


def run(watch: Watch, losses: Tensor, size: int = 10) -> None:
    """Show a watch logits of two classes with these losses for class 0, batch by batch."""
    for part in torch.split(losses, size):
        logits = torch.stack([torch.zeros_like(part), torch.log(torch.expm1(part))], dim=1)
        watch.add(Judged(logits, torch.zeros(len(part), dtype=torch.long)), None, dict)


def watch_of(incumbent: Incumbent | None = None, total: int = 160, confidence: float = 0.95) -> Watch:
    return Watch(_task(), "loss", total, incumbent, confidence)


@cache
def _task() -> Task:
    return task()


def incumbent(losses: Tensor) -> Incumbent:
    return Incumbent(7, float(losses.mean()), Course("loss", losses, torch.ones(len(losses))))


def test_the_statistic_is_the_paired_t() -> None:
    drawn = np.random.default_rng(0).normal(0.1, 1.0, size=(2, 40))
    mean, error = paired(torch.tensor(drawn[0] - drawn[1]), torch.ones(40), scores=False)
    wanted = stats.ttest_rel(drawn[0], drawn[1], alternative="greater")
    assert mean / error == pytest.approx(wanted.statistic)
    doubled = paired(torch.tensor(drawn[0] - drawn[1]), torch.full((40,), 2.0), scores=False)
    assert doubled == pytest.approx((mean, error)), "weights that are alike change nothing"


@pytest.mark.parametrize(("sizes", "looks"), [((10,) * 16, [20, 80]), ((50,) * 6, [50, 150]), ((500,) * 10, [500, 2500]), ((299,), [])])
def test_it_looks_at_the_ends_of_batches_nearest_to_an_eighth_and_a_half(sizes: tuple[int, ...], looks: list[int]) -> None:
    losses = torch.full((sum(sizes),), 0.5)
    seen: list[int] = []
    for look in [*looks, None]:
        worse = losses + torch.rand(len(losses), generator=torch.Generator().manual_seed(0)) if look else losses
        worse[: seen[-1] if seen else 0] = losses[: seen[-1] if seen else 0]
        try:
            run(watch_of(incumbent(losses), sum(sizes)), worse, sizes[0])
        except OutrunError as stop:
            seen.append(stop.examples)
    assert seen == looks


def test_a_policy_as_good_as_the_incumbent_is_stopped_as_rarely_as_is_said() -> None:
    drawn, stops = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        ours, theirs = torch.rand(2, 160, generator=drawn) + 0.1
        try:
            run(watch_of(incumbent(theirs)), ours)
        except OutrunError:
            stops += 1
    assert 4 <= stops <= 28, "5 % of 400 are 20, less where both looks agree"


def test_the_estimate_is_the_incumbents_figure_and_the_paired_rise() -> None:
    theirs = torch.linspace(0.2, 2.0, 160)
    with pytest.raises(OutrunError, match=r"after 20 of 160 validation examples: loss 0.1 \(standard error .*\) above trial 7") as stop:
        run(watch_of(incumbent(theirs)), theirs + torch.tensor([0.05, 0.15]).repeat(80))
    assert stop.value.estimate["loss"] == pytest.approx(float(theirs.mean()) + 0.1, rel=1e-4)


def test_losses_of_single_examples_have_the_mean_of_the_batch() -> None:
    of = task()
    inputs, targets = of.valid[0]  # type: ignore[index]
    outputs = of.model(inputs).detach()
    kinds = (
        (of, "loss"),
        (task(loss=lambda y, t: nn.functional.mse_loss(y, nn.functional.one_hot(t, CLASSES).float())), "loss"),
        (task(metrics="perplexity"), "loss"),
        (task(metrics="f1"), "error"),
    )
    for kind, objective in kinds:
        of_what, values, weights = example_values(kind, Judged(outputs, targets), None, objective)
        assert of_what == "loss"
        assert float((values * weights).sum() / weights.sum()) == pytest.approx(float(kind.loss(outputs, targets)), rel=1e-5)
    judged = torch.tensor([1.0] * 7 + [0.0] * 13)
    assert example_values(of, Judged(outputs, targets), judged, "error")[1].tolist() == [0.0] * 7 + [1.0] * 13


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": lambda y, t: nn.functional.cross_entropy(y, t, reduction="sum")}, "the loss of all is .* mean over single examples"),
        ({"loss": lambda y, t: (y - y.roll(1, 0)).square().mean() + 1 / (len(t) - 1)}, "single examples fails with ZeroDivisionError"),
    ],
)
def test_a_loss_that_is_no_mean_over_examples_cannot_be_raced(changes: Mapping[str, Any], message: str) -> None:
    of = task(**changes)
    measured, watch = evaluator(of), Watch(of, "loss", 160)
    with pytest.raises(UnfitError, match=message):
        check(watch, measured(policy(), watch=watch).metrics)


@pytest.mark.parametrize(("changes", "lost_after"), [({}, 40), ({"metrics": ["f1", "accuracy"]}, 140)])
def test_the_end_of_a_race_is_what_it_is_without_one(changes: Mapping[str, Any], lost_after: int) -> None:
    of = task(**changes)
    measured, passes = evaluator(of), []
    measured.float_metrics()
    network = measured.engine.apply(policy())
    network.register_forward_hook(lambda _module, inputs, _outputs: passes.append(len(inputs[0])))
    plain = measured(policy("int4:channel:mse")).metrics
    assert sum(passes) == 300
    passes.clear()
    watch = measured.watch("error", None, 0.95)
    raced = measured(policy("int4:channel:mse"), watch=watch)
    assert (raced.status, raced.metrics, raced.examples) == ("ok", plain, 300), "every figure, to the last bit"
    assert len(passes) == 15, "every example once"
    check(watch, raced.metrics)
    best = Incumbent(3, raced.metrics["error"], watch.course)
    passes.clear()
    lost = measured(policy("binary:channel"), watch=measured.watch("error", best, 0.95))
    assert (lost.status, lost.examples, sum(passes)) == ("stopped", lost_after, lost_after)
    assert lost.estimate["error"] > plain["error"]
    assert not lost.ok
    assert "above trial 3, which costs no more" in lost.reason
