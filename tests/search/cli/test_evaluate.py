"""`evaluate` and `apply`: one policy, no search."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_policy_of_another_network_is_refused(run: Run, tmp_path: Path) -> None:
    policy = {"schema": "bitfront.policy/1", "layers": {"conv1": {"weight": "int4:channel", "activation": "int8:tensor"}}}
    (tmp_path / "p.json").write_text(json.dumps(policy))
    answer = run("apply", "p.json", "--task", "own_task:make")
    assert answer.returncode == 2
    assert "is for another network" in answer.stderr


def test_training_recovers_what_two_bits_lose(run: Run) -> None:
    policy = "weight=int2:channel:mse,activation=int4:tensor:octav"
    answer = run("evaluate", "--task", "digits", "--policy", policy, "--qat", "lsq", "--epochs", 2, "--seed", 1, "--json")
    assert answer.returncode == 0, answer.stderr
    figures = json.loads(answer.stdout)
    assert figures["accuracy_ptq_test"] == figures["accuracy_test"]
    assert figures["accuracy_qat_test"] > figures["accuracy_ptq_test"] + 0.05
    assert answer.stderr.count("epoch") == 2
    assert "unknown QAT method 'lsk'" in run("evaluate", "--task", "own_task:make", "--policy", policy, "--qat", "lsk").stderr
