"""`solve`: other budgets from the sensitivities of a sweep."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from quant_core.spec.policy import Policy
from search.cli.solve import _show

MakeExperiment = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_other_budgets_are_solved_without_scoring_again(run: Run, tmp_path: Path, experiment: MakeExperiment) -> None:
    assert run("sweep", experiment(), "search.searcher=ilp", "search.trials=8").returncode == 0
    answer = run("solve", "one", "--budget", "weight_bytes=0.2 of float", "--budget", "latency_s=1", "--out", "tight.json", "--json")
    assert answer.returncode == 0, answer.stderr
    solved = json.loads(answer.stdout)
    assert solved["scored"] == 0
    assert solved["proven"] is True
    assert solved["gap"] <= 1e-9 * solved["estimated_loss_rise"]
    assert solved["bound"] == solved["estimated_loss_rise"] - solved["gap"]
    assert solved["cost"]["weight_bytes"] <= 0.2 * 4 * (12 * 24 + 24 * 24 + 24 * 3)
    applied = json.loads(run("apply", "tight.json", "--task", "own_task:make", "--json").stdout)
    assert applied["weight_bytes"] == solved["cost"]["weight_bytes"]
    assert run("cost", "tight.json", "--device", "vu9p-bitserial").returncode == 0
    shown = run("solve", "one", "--budget", "weight_bytes=0.2 of float", "--budget", "latency_s=1").stdout
    assert "proven optimal; no policy within the budget has less than" in shown
    assert "'tiny' given" in run("solve", "one", "--budget", "weight_bytes=tiny").stderr
    assert "METRIC=LIMIT" in run("solve", "one", "--budget", "small").stderr


def test_an_answer_that_is_not_proven_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"proven": False, "gap": 0.25, "estimated_loss_rise": 1.5, "bound": 1.25, "cost": {}, "seconds": 0.1, "scored": 0}
    _show(Policy({}), result)
    assert "estimated loss rise 1.5: not proven, gap 0.25; no policy within the budget has less than 1.25" in capsys.readouterr().out
