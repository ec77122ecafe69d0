"""The metric that is searched for, and limits on metrics."""

from typing import Any

import pytest
from torch import nn

from quant_core.util.errors import InputError
from search.config.experiment import DeviceSection
from search.sweeps.quality import judged_by, quality_limits, reference_point
from search.tasks.task import Task

BASELINE = {"accuracy_valid": 0.98, "perplexity_valid": 5.0, "psnr_valid": 31.0, "error_valid": 5.0, "loss_valid": 1.6}


def task(*metrics: str) -> Task:
    return Task(nn.Identity(), [], [], [], [], metrics=metrics)


def limits(*metrics: str, **budget: object) -> dict[str, float]:
    return quality_limits(DeviceSection.model_validate({"name": "counts", "budget": budget}), task(*metrics).infos, BASELINE)


def test_points_are_of_percent_or_of_the_unit() -> None:
    assert limits(accuracy="float - 0.5") == pytest.approx({"accuracy": 0.975})
    wanted = {"accuracy": 0.975, "perplexity": 5.2, "psnr": 30.5}
    budget = {"accuracy": "0.5 points", "perplexity": "<= float + 0.2", "psnr": ">= float - 0.5", "weight_bytes": "0.25 of float"}
    assert limits("accuracy", "perplexity", "psnr", **budget) == pytest.approx(wanted)


def test_limits_may_be_absolute_or_shares_of_float() -> None:
    assert limits("accuracy", "perplexity", accuracy=">= 97 %", perplexity="1.1 of float") == pytest.approx(
        {"accuracy": 0.97, "perplexity": 5.5}
    )


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"accuracy": "float + 0.5"}, "accuracy = 'float . 0.5' given, which is better than the float network; write 'float - 0.5'"),
        ({"perplexity": "float - 0.5"}, "perplexity = 'float - 0.5' given, which is better .*; write 'float . 0.5'"),
        ({"perplexity": ">= 7"}, "budget perplexity >= 7 given, and lower is better; write '<= 7'"),
        ({"accuracy": "0.9 of int8"}, "accuracy = '0.9 of int8' given; metrics have limits relative to float"),
    ],
)
def test_limits_that_make_no_sense_are_refused(budget: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        limits("accuracy", "perplexity", **budget)


def test_the_metric_that_is_searched_for_is_chosen_by_name() -> None:
    assert [judge.name for judge in judged_by(task("accuracy", "kld", "flips"), "flips").judges] == ["flips", "accuracy", "kld"]
    same = task("accuracy", "kld")
    assert judged_by(same, "") is same
    assert judged_by(task(), "accuracy").judges == ()
    with pytest.raises(InputError, match=r"unknown metric of the task 'flip'; known: flips, kld. Did you mean 'flips'\?"):
        judged_by(task("kld", "flips"), "flip")


def test_the_reference_point_is_that_of_the_metric() -> None:
    assert reference_point(None, BASELINE) == {"error": 1.0, "loss": 6.4}
    assert reference_point(task("accuracy").infos[0], BASELINE)["error"] == 1.0
    assert reference_point(task("perplexity").infos[0], BASELINE)["error"] == 20.0
