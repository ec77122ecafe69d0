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


def test_reconstruction_shows_its_blocks_and_its_figures(run: Run) -> None:
    policy = "weight=int2:channel:mse,activation=int4:tensor:mse"
    command = ("evaluate", "--task", "own_task:make", "--policy", policy, "--reconstruct", "--steps", 40)
    answer = run(*command, "--json")
    assert answer.returncode == 0, answer.stderr
    figures = json.loads(answer.stdout)
    assert figures["loss_reconstruct_valid"] != figures["loss_valid"]
    assert figures["seconds_reconstruct"] > 0
    assert answer.stderr.count("reconstructed (") >= figures["blocks_reconstructed"] >= 1
    assert "reconstructed" in run(*command).stdout


def test_a_device_that_is_not_there_is_refused_and_half_precision_is_another_figure(run: Run) -> None:
    policy = ("evaluate", "--task", "own_task:make", "--policy", "weight=int8:channel,activation=int8:tensor", "--json")
    answer = run(*policy, "--device", "cuda:77")
    assert answer.returncode == 2
    assert "device 'cuda:77' is not on this machine" in answer.stderr
    single, half = (json.loads(run(*policy, "--device", "cpu", "--dtype", dtype).stdout) for dtype in ("float32", "bfloat16"))
    assert single["loss_valid"] != half["loss_valid"]
    assert abs(single["loss_valid"] / half["loss_valid"] - 1) < 0.1
