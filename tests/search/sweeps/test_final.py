"""The test split: judged with a first batch before the sweep; at its end a member that fails marks itself alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from quant_core.util.errors import BitfrontError
from search.config.experiment import Experiment
from search.evaluation.evaluator import Evaluator
from search.records.front import front_members
from search.sweeps.context import open_context
from search.sweeps.run import start
from search.tasks.task import Task
from tests.search import own_task


def experiment(trials: int = 6) -> Experiment:
    return Experiment.model_validate(
        {
            "task": {"name": "tests.search.own_task:make"},
            "space": {"weight": ["int2:channel:mse", "int4:channel:mse", "int8:channel:mse"], "activation": ["int8:tensor:ema"]},
            "device": {"name": "generic-cpu", "objectives": ["error", "weight_bytes"]},
            "search": {"searcher": "random", "trials": trials, "seed": 1},
        }
    )


@pytest.mark.parametrize(
    ("harm", "message"), [("nan", "returned NaN or infinity"), ("empty", "the split is empty"), ("shape", "first batch: ")]
)
def test_a_test_split_that_fails_is_refused_before_the_first_trial(harm: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task: Task = own_task.make()
    ((inputs, targets),) = task.test
    bad: Any = {"nan": [(inputs * torch.nan, targets)], "empty": [], "shape": [(inputs[:, :3], targets)]}[harm]
    context = open_context(experiment(), replace(task, test=bad))
    monkeypatch.setattr(Evaluator, "__call__", lambda *_given: pytest.fail("a trial began"))
    with pytest.raises(BitfrontError, match=message) as raised:
        start(experiment(), "none", context=context, recorded=False)
    assert "float network on test, first batch" in str(raised.value)
    assert "mend it before the sweep" in str(raised.value)


def test_a_member_that_fails_on_the_test_split_marks_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    measured, calls = Evaluator.metrics, []

    def second_fails(self: Evaluator, policy: Any, split: str, *rest: Any) -> dict[str, float]:
        if split == "test":
            calls.append(policy)
            if len(calls) == 2:
                raise RuntimeError("no kernel\nand more")
        return measured(self, policy, split, *rest)

    monkeypatch.setattr(Evaluator, "metrics", second_fails)
    outcome = start(experiment(), "none", context=open_context(experiment(), own_task.make()), recorded=False)
    members = front_members(outcome.record)
    assert len(members) >= 2
    assert [bool(member.test) for member in members] == [index != 1 for index in range(len(members))]
    assert members[1].result.reason == "test split: RuntimeError: no kernel"
    assert members[1].result.ok
    assert outcome.record.status == "finished"
    assert "stays on the front without figures on the test split" in caplog.text
