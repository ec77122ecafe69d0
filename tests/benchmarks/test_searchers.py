"""The command that solves one problem file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_command_solves_one_problem() -> None:
    command = [sys.executable, "-m", "benchmarks.searchers", "--problem", "benchmarks/problems/hawqv3_resnet18.json"]
    rule = ["--searcher", "ilp", "--json", "--budget-metric", "bops_g", "--ratio", "0.5"]
    done = subprocess.run([*command, *rule], cwd=ROOT, check=True, capture_output=True, text=True)
    answer = json.loads(done.stdout)
    assert list(answer) == ["loss", "choice", "cost", "seconds", "evaluations"]
    assert answer["loss"] == pytest.approx(0.211431448741)
    assert answer["cost"]["bops_g"] <= 66.23232
    assert answer["evaluations"] == 1
    assert answer["seconds"] < 1.0
    loose = [*command, "--searcher", "ilp", "--json", "--budget-metric", "size_mb", "--ratio", "1.0"]
    widest = json.loads(subprocess.run(loose, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    assert (widest["loss"], set(widest["choice"])) == (0.0, {1}), "a uniform optimum is found, too"
    bad = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert bad.returncode == 2
    assert "give --budget-metric (latency_ms, bops_g, size_mb) and --ratio" in bad.stderr
