"""`tests/accelerators.py` in a process of its own: a device must be there before torch first computes gradients in the process."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SUITE = "tests/accelerators.py"


def run(marks: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-m", marks, SUITE]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_second_device_gives_what_the_cpu_gives() -> None:
    done = run("not gpu")
    assert done.returncode == 0, done.stdout


@pytest.mark.gpu
def test_every_accelerator_gives_what_the_cpu_gives() -> None:
    import torch

    if not torch.accelerator.is_available():
        pytest.skip("torch can use no accelerator on this machine")
    done = run("gpu")
    assert done.returncode == 0, done.stdout
