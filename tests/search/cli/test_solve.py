"""`solve`: other budgets from the sensitivities of a sweep."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

MakeExperiment = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_other_budgets_are_solved_without_scoring_again(run: Run, tmp_path: Path, experiment: MakeExperiment) -> None:
    assert run("sweep", experiment(), "search.searcher=ilp", "search.trials=8").returncode == 0
    answer = run("solve", "one", "--budget", "weight_bytes=0.2 of float", "--budget", "latency_s=1", "--out", "tight.json", "--json")
    assert answer.returncode == 0, answer.stderr
    solved = json.loads(answer.stdout)
    assert solved["scored"] == 0
    assert solved["cost"]["weight_bytes"] <= 0.2 * 4 * (12 * 24 + 24 * 24 + 24 * 3)
    applied = json.loads(run("apply", "tight.json", "--task", "own_task:make", "--json").stdout)
    assert applied["weight_bytes"] == solved["cost"]["weight_bytes"]
    assert run("cost", "tight.json", "--device", "vu9p-bitserial").returncode == 0
    assert "'tiny' given" in run("solve", "one", "--budget", "weight_bytes=tiny").stderr
    assert "METRIC=LIMIT" in run("solve", "one", "--budget", "small").stderr
