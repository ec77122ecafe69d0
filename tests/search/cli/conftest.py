"""What the tests of the command line share: a run in this process, an experiment of the user's own task, the trials of a sweep."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.cli.app import main

ROOT, HELPERS = Path(__file__).parents[3], Path(__file__).parents[1]
EXPERIMENT = """
name = "{name}"
[task]
name = "own_task:make"
options = {options}
[space]
weight = {{ bits = [2, 4, 8], granularity = "channel", clipping = "mse" }}
activation = ["int8:tensor", "int4:tensor:mse"]
[device]
name = "vu9p-bitserial"
objectives = ["error", "weight_bytes", "latency_s"]
budget = {{ weight_bytes = "0.3 of float" }}
[search]
searcher = "tpe"
trials = 16
seed = 5
[track]
uri = "sqlite:///{folder}/mlflow.db"
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]
MakeExperiment = Callable[..., Path]
Trials = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a process that can import `own_task` and caches in the test's folder."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HELPERS)]),
        "HOME": str(tmp_path),
        "BITFRONT_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return what runs the command line in this process, as `main` does: exit code and output as a shell would see them."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.syspath_prepend(str(HELPERS))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> "subprocess.CompletedProcess[str]":
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "argv", ["bitfront", *map(str, arguments)])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as exit_:
            main()
        code = exit_.value.code
        return subprocess.CompletedProcess([], code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())

    return call


@pytest.fixture
def experiment(tmp_path: Path) -> MakeExperiment:
    """Return a writer of the experiment file, with one change of its text."""

    def write(name: str = "one", options: str = "{}", change: tuple[str, str] = ("", "")) -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(EXPERIMENT.format(name=name, options=options, folder=tmp_path).replace(*change))
        return path

    return write


@pytest.fixture
def trials(run: Run) -> Trials:
    """Return a reader of every trial of a sweep, as `bitfront front --all --json` gives them."""

    def rows_of(sweep: str) -> list[dict[str, Any]]:
        answer = run("front", sweep, "--all", "--json")
        assert answer.returncode == 0, answer.stderr
        rows: list[dict[str, Any]] = json.loads(answer.stdout)
        return rows

    return rows_of
