"""Sweeps on Ray Tune: the same policies as locally, workers that die, hang or fail, a cluster that is not there."""

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from search.cli import main

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]
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
[search]
searcher = "random"
trials = 14
seed = 5
[track]
uri = "sqlite:///{folder}/mlflow.db"
[run]
{run}
"""
Sweep = Callable[..., list[dict[str, object]]]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Run a sweep in this process; return every trial as `bitfront front --all --json` shows it."""
    folder = Path(__file__).parent
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{folder.parents[1]}")
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def bitfront(*arguments: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "argv", ["bitfront", *arguments])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as exit_:
            main()
        return int(exit_.value.code or 0), out.getvalue(), err.getvalue()

    def call(name: str, run: str, options: str = "{}", fails: str = "") -> list[dict[str, object]]:
        path = tmp_path / f"{name}.toml"
        path.write_text(EXPERIMENT.format(name=name, run=run, options=options, folder=tmp_path))
        code, _, err = bitfront("sweep", str(path), "--log", "plain")
        if fails:
            assert code == 2, err
            assert fails in err
            return []
        assert code == 0, err
        _, out, _ = bitfront("front", name, "--all", "--json", "--uri", f"sqlite:///{tmp_path}/mlflow.db")
        rows: list[dict[str, object]] = json.loads(out)
        return rows

    return call


def policies(rows: list[dict[str, object]]) -> list[tuple[object, ...]]:
    return sorted((str(row["id"]), row["accuracy_valid"], row["weight_bytes"], row["status"]) for row in rows)


def test_two_workers_give_the_policies_and_figures_of_one_process(sweep: Sweep) -> None:
    assert policies(sweep("ray", 'backend = "ray"\nworkers = 2')) == policies(sweep("local", 'backend = "local"'))


def test_a_worker_that_dies_and_one_that_hangs_lose_nothing(sweep: Sweep, tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.mkdir()
    run = 'backend = "ray"\nworkers = 2\ntrial_timeout_s = 4\nmax_retries = 3'
    rows = sweep("ray", run, f'{{ trouble = "{trouble}" }}')
    assert sorted(path.name for path in trouble.iterdir()) == ["die", "hang"], "both really happened"
    assert [row["trial"] for row in rows] == list(range(14))
    assert {row["status"] for row in rows} == {"ok"}
    assert policies(rows) == policies(sweep("local", 'backend = "local"'))


def test_policies_that_always_fail_are_recorded_with_their_reason(sweep: Sweep) -> None:
    rows = sweep("ray", 'backend = "ray"\nworkers = 2\nmax_retries = 1', "{ breaks = 4 }")
    failed = [row for row in rows if row["status"] == "failed"]
    assert failed
    assert len(rows) == 14
    assert all("NaN or infinity" in str(row["reason"]) for row in failed)


def test_clusters_that_cannot_be_joined_are_named(sweep: Sweep) -> None:
    sweep("client", 'backend = "ray"\naddress = "ray://127.0.0.1:10001"', fails="write '127.0.0.1:6379'")
