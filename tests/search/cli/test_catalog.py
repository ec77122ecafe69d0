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
