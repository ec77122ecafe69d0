"""Trials that a scheduler of Ray Tune stops: recorded as stopped with how far they came, never on the front, never failed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]
HELPERS, ROOT = Path(__file__).parents[2], Path(__file__).parents[4]
EXPERIMENT = """
name = "{name}"
[task]
name = "own_task:make"
[space]
weight = {{ bits = [2, 3, 4, 8], granularity = "channel" }}
activation = ["int8:tensor", "int2:tensor", "int3:tensor"]
[device]
name = "counts"
objectives = ["error", "weight_bytes"]
[search]
searcher = "{searcher}"
trials = {trials}
seed = 5
[evaluate]
{evaluate}
[track]
uri = "sqlite:///{folder}/mlflow.db"
[run]
backend = "ray"
workers = 2
"""


def bitfront(folder: Path, *arguments: str) -> str:
    environment = os.environ | {
        "PYTHONPATH": f"{HELPERS}:{ROOT}",
        "BITFRONT_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    done = subprocess.run(
        [sys.executable, "-m", "search", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_asha_stops_trials_that_then_are_neither_on_the_front_nor_failed(tmp_path: Path) -> None:
    evaluate = 'fidelity = "qat"\nepochs = 3\nqat = { method = "ste", lr = 0.02 }'
    text = EXPERIMENT.format(name="early", searcher="ray:ASHA+random", trials=22, evaluate=evaluate, folder=tmp_path)
    (tmp_path / "early.toml").write_text(text)
    said = bitfront(tmp_path, "sweep", "early.toml", "--log", "plain")
    rows = json.loads(bitfront(tmp_path, "front", "early", "--all", "--json"))
    assert [row["trial"] for row in rows] == list(range(22))
    stopped = [row for row in rows if row["status"] == "stopped"]
    assert {row["status"] for row in rows} == {"ok", "stopped"}
    assert 3 <= len(stopped) <= 20
    assert f"0 failed, {sum(row['repeated'] >= 0 for row in rows)} repeated, {len(stopped)} stopped early" in said
    assert not [row for row in stopped if row["front"] or row["origin"] == "baseline"]
    assert {row["fidelity"] for row in rows if row["status"] == "ok"} == {"qat"}
    reached = {row["fidelity"] for row in stopped}
    assert reached <= {"ptq, 37 calibration examples", "ptq", "qat, epoch 1 of 3", "qat, epoch 2 of 3"}
    assert all(row["reason"] == f"stopped early at {row['fidelity']}" for row in stopped)


def test_a_scheduler_leaves_the_ladder_alone(tmp_path: Path) -> None:
    evaluate = 'ladder = ["adaround", "qat"]\ntop_k = 2\nepochs = 1'
    text = EXPERIMENT.format(name="both", searcher="ray:ASHA+OptunaSearch", trials=14, evaluate=evaluate, folder=tmp_path)
    (tmp_path / "both.toml").write_text(text)
    bitfront(tmp_path, "sweep", "both.toml", "--log", "plain")
    rows = json.loads(bitfront(tmp_path, "front", "both", "--all", "--json"))
    assert [(row["fidelity"], row["status"]) for row in rows[14:]] == [("adaround", "ok")] * 2 + [("qat", "ok")] * 2
    assert "stopped" in {row["status"] for row in rows[:14]}
