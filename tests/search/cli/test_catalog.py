"""`init` writes an experiment that can be run."""

import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_init_writes_an_experiment_that_is_valid(run: Run, tmp_path: Path) -> None:
    assert run("init", "mine.toml").returncode == 0
    assert "exists" in run("init", "mine.toml").stderr
    assert run("init", "mine.toml", "--force").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


NETWORKS = """
import torch
from torch import nn

def images():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

def options(width):
    return nn.Linear(width, 3)
"""


def test_init_from_a_network_writes_a_task_that_runs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NETWORKS)
    written = run("init", "first.toml", "--from", "mine:images")
    assert written.returncode == 0, written.stderr
    assert "Sequential with 137 parameters; it takes torch.randn(8, 3, 32, 32)" in written.stderr + written.stdout
    assert 'name = "first_task:task"' in (tmp_path / "first.toml").read_text()
    swept = run("sweep", "first.toml", "search.trials=3", "track.uri=sqlite:///m.db")
    assert swept.returncode == 0, swept.stderr
    assert "exists" in run("init", "first.toml", "--from", "mine:images").stderr


def test_init_from_what_is_no_network_is_answered(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NETWORKS)
    assert "calling it without arguments failed" in run("init", "a.toml", "--from", "mine:options").stderr
    assert "has no 'other'" in run("init", "a.toml", "--from", "mine:other").stderr
    assert not (tmp_path / "a.toml").exists()
