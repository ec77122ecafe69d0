"""Whole sweeps as a user runs them: kill -9 and resume, the same seed twice, failing trials."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from search.tracking import read, sweeps
from tests.forked import Started

MakeExperiment = Callable[..., Path]
Trials = Callable[[str], list[dict[str, Any]]]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_sweep_front_show_export_apply(run: Run, tmp_path: Path, experiment: MakeExperiment, trials: Trials) -> None:
    done = run("sweep", experiment(), "--log", "json")
    assert done.returncode == 0, done.stderr
    name, run_id = done.stdout.splitlines()[-1].split(" ")
    assert name == "one"
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    phases = [line["phase"].split()[0] for line in lines if "phase" in line]
    assert list(dict.fromkeys(phases)) == [
        "starting",
        "loading",
        "reading",
        "calibrating",
        "the",
        "float",
        "trials",
        "sensitivities",
        "test",
        "report",
    ]
    assert "phase" in lines[0], "before anything else is done"
    assert next(line for line in lines if "trials" in line)["trials"] == 16
    rows = json.loads(run("front", run_id, "--json").stdout)
    keys = (
        "id trial accuracy_valid accuracy_test accuracy_float_test latency_s energy_j weight_bytes float_weight_bytes bits_weight_avg knee"
    )
    assert set(keys.split()) <= set(rows[0])
    assert sum(bool(row["knee"]) for row in rows) == 1
    assert all(row["weight_bytes"] <= 0.3 * row["float_weight_bytes"] for row in rows)
    assert all(row["accuracy_test"] is not None for row in rows)
    everything = trials(name)
    assert [row["trial"] for row in everything] == list(range(16))
    assert {row["status"] for row in everything} == {"ok"}
    best = max(rows, key=lambda row: row["accuracy_valid"])
    assert run("show", name, best["id"]).returncode == 0
    out = tmp_path / "out"
    assert run("export", name, "--pick", best["id"], "--out", out).returncode == 0
    assert run("export", name, "--pick", best["id"], "--out", out).returncode == 2, "an existing folder needs --force"
    applied = json.loads(run("apply", out / "policy.json", "--task", "own_task:make", "--json").stdout)
    assert (applied["id"], applied["accuracy_test"]) == (best["id"], best["accuracy_test"])
    assert applied["weight_bytes"] == best["weight_bytes"]


def test_same_seed_gives_the_same_policies_and_figures(
    run: Run, tmp_path: Path, experiment: MakeExperiment, trials: Trials, caplog: pytest.LogCaptureFixture
) -> None:
    figures = []
    for name in ("one", "two"):
        assert run("sweep", experiment(name)).returncode == 0
        figures.append([(row["id"], row["accuracy_valid"], row["weight_bytes"], row["latency_s"]) for row in trials(name)])
    assert figures[0] == figures[1]
    other = run("sweep", experiment("three"), "search.seed=6", "run.scheduler=race")
    assert other.returncode == 0
    assert "150 validation examples come in batches that are too large to stop between them, so no trial can lose a race" in caplog.text
    evaluated = 150 * sum(row["repeated"] < 0 for row in trials("three"))
    assert f"validation examples: {evaluated:,} evaluated, {evaluated:,} without racing" in other.stderr
    assert re.search(
        r"trials [\d.]+: evaluation [\d.]+, search [\d.]+, tracking [\d.]+, idle [\d.]+;.*; 0 attempts made again", other.stderr
    )
    assert re.search(r"caches: weights [1-9]\d* hits, [1-9]\d* misses, .* activation ranges [1-9]\d* hits, [1-9]\d* misses;", other.stderr)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert other.stderr.splitlines()[-4:-1] == ["next:", f"  bitfront front three --uri {uri}", f"  bitfront ui --uri {uri}"]
    assert re.search(rf"suggested: (\w+), .*\nnext:[^$]*bitfront export three --uri {uri} --pick \1 --out FOLDER$", other.stderr.rstrip())
    assert [row["id"] for row in trials("three")] != [row[0] for row in figures[0]]


def test_kill_and_resume_equals_an_undisturbed_sweep(
    run: Run,
    tmp_path: Path,
    finished_trials: Callable[[str], dict[str, list[int]]],
    experiment: MakeExperiment,
    trials: Trials,
    environment: dict[str, str],
) -> None:
    options = "{ sleep = 0.05 }"
    assert run("sweep", experiment("whole", options)).returncode == 0
    with Started("sweep", str(experiment("part", options)), "--log", "json", cwd=tmp_path, env=environment) as process:
        for line in process.stderr:
            if line.startswith("{") and json.loads(line)["done"] >= 9:
                break
        process.send_signal(signal.SIGKILL)
    before = len(trials("part"))
    assert 9 <= before < 16
    resumed = run("resume", "part")
    assert resumed.returncode == 0, resumed.stderr
    keys = ("trial", "id", "accuracy_valid", "accuracy_test", "weight_bytes", "latency_s", "status", "origin")
    part, whole = ([[row[key] for key in keys] for row in trials(name)] for name in ("part", "whole"))
    assert part == whole
    assert run("resume", "part").returncode == 0, "resuming a finished sweep changes nothing"
    assert [[row[key] for key in keys] for row in trials("part")] == whole
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert len(sweeps(uri)) == 2
    assert finished_trials(uri) == {"whole": list(range(16)), "part": list(range(16))}


def test_ctrl_c_stops_after_the_running_trial_and_can_be_resumed(
    run: Run, tmp_path: Path, experiment: MakeExperiment, trials: Trials, environment: dict[str, str]
) -> None:
    arguments = ["sweep", str(experiment(options="{ sleep = 0.05 }")), "--log", "json"]
    with Started(*arguments, cwd=tmp_path, env=environment) as process:
        for line in process.stderr:
            if line.startswith("{") and "trials" in json.loads(line) and json.loads(line)["done"] >= 8:
                break
        process.send_signal(signal.SIGINT)
        stdout, rest = process.communicate()
    assert process.returncode == 0, rest
    notes = [json.loads(line).get("note", "") for line in rest.splitlines() if line.startswith("{")]
    waits = r"stopping: waiting for the end of the running trial; Ctrl-C again ends at once. `bitfront resume one --uri \S+` continues it."
    assert any(re.fullmatch(waits, note) for note in notes), rest
    assert json.loads(rest.splitlines()[-1])["next"][0].startswith("bitfront resume one")
    assert all(json.loads(line) for line in rest.splitlines()), "JSON lines, and nothing else"
    assert stdout.splitlines()[-1].startswith("one ")
    assert 8 <= len(trials("one")) < 16
    assert run("resume", "one").returncode == 0
    assert len(trials("one")) == 16


@pytest.mark.parametrize(
    ("named", "old", "new"),
    [("weights", "lr=0.02", "lr=0.03"), ("data", "data_shift: float = 0.0", "data_shift: float = 0.5")],
)
def test_resume_refuses_other_weights_or_data(run: Run, tmp_path: Path, named: str, old: str, new: str, experiment: MakeExperiment) -> None:
    """The experiment names the user's function; what it returns has changed since."""
    module = (Path(__file__).parents[1] / "own_task.py").read_text()
    sys.modules.pop("changing", None)
    (tmp_path / "changing.py").write_text(module)
    assert run("sweep", experiment(change=("own_task:make", "changing:make"))).returncode == 0
    (tmp_path / "changing.py").write_text(module.replace(old, new))
    sys.modules.pop("changing")
    answer = run("resume", "one")
    assert answer.returncode == 2
    assert f"bound to other {named} than" in answer.stderr


def test_task_that_neither_seeds_nor_keeps_an_order_can_be_resumed(
    run: Run, tmp_path: Path, experiment: MakeExperiment, trials: Trials
) -> None:
    change = ("own_task:make", "own_task:shuffled")
    for name in ("one", "two"):
        torch.manual_seed(len(name) + ord(name[0]))
        assert run("sweep", experiment(name, change=change), "search.trials=7", "search.searcher=random").returncode == 0
    assert [row["accuracy_valid"] for row in trials("one")] == [row["accuracy_valid"] for row in trials("two")]
    answer = run("resume", "one")
    assert answer.returncode == 0, answer.stderr


def test_ctrl_c_before_the_first_trial_says_so(run: Run, tmp_path: Path, experiment: MakeExperiment) -> None:
    answer = run("sweep", experiment(change=("own_task:make", "own_task:interrupted")))
    assert answer.returncode == 130
    assert "interrupted in phase 'loading task own_task:interrupted': nothing was recorded." in answer.stderr
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".toml"] == []


def test_sweep_with_failing_trials_goes_on_and_says_so(run: Run, tmp_path: Path, experiment: MakeExperiment, trials: Trials) -> None:
    answer = run("sweep", experiment(options="{ breaks = 4 }"))
    assert answer.returncode == 0, answer.stderr
    rows = trials("one")
    failed = [row for row in rows if row["status"] == "failed"]
    assert failed
    assert len(rows) == 16
    assert all("NaN or infinity" in str(row["reason"]) for row in failed)
    assert f"{len(failed)} failed" in answer.stderr
    assert f"trial {failed[0]['trial']} failed" in answer.stderr


FAILING = """
import os
import own_task
from torch import nn


class FailsOnTest(nn.Module):
    def __init__(self, body, test):
        super().__init__()
        self.body, self.test, self.whole = body, float(test[0, 0]), len(body[0].weight.unique())

    def forward(self, x):
        if "MENDED" not in os.environ and float(x[0, 0]) == self.test and len(self.body[0].weight.unique()) <= 4 * 24:
            raise RuntimeError("no kernel of 2 bits for this batch")
        return self.body(x)


def make():
    task = own_task.make()
    return own_task.Task(FailsOnTest(task.model, task.test[0][0]), task.train, task.calib, task.valid, task.test)
"""


def test_a_member_that_fails_on_the_test_split_ends_with_the_trial_and_the_command(
    run: Run, tmp_path: Path, experiment: MakeExperiment, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_task.py").write_text(FAILING)
    sys.modules.pop("failing_task", None)
    answer = run("sweep", experiment(), "task.name=failing_task:make", "search.searcher=random", "search.trials=8", "--log", "json")
    rows = trials("one")
    failed = [row["trial"] for row in rows if row["front"] and not row["test"]]
    assert failed
    assert any(row["test"] for row in rows), "the rest is judged"
    assert (answer.returncode, answer.stdout.splitlines()[-1].split()[0]) == (1, "one")
    said = [entry for line in answer.stderr.splitlines() if "split" in (entry := json.loads(line))]
    assert [(entry["sweep"], entry["trial"], entry["split"]) for entry in said] == [("one", number, "test") for number in failed]
    assert all("no kernel of 2 bits" in entry["reason"] and entry["next"].startswith("bitfront resume one") for entry in said)
    again = run("resume", "one", "--log", "plain")
    assert again.returncode == 1
    assert f"sweep one, trial {failed[0]} of the front failed on the test split: RuntimeError: no kernel of 2 bits" in again.stderr
    assert "then judge them again: bitfront resume one" in again.stderr
    monkeypatch.setenv("MENDED", "1")
    assert run("resume", "one").returncode == 0
    assert all(row["test"] for row in trials("one") if row["front"])


def test_loss_may_be_what_is_minimized(run: Run, tmp_path: Path, experiment: MakeExperiment) -> None:
    answer = run("sweep", experiment(change=('["error"', '["loss"')), "search.trials=8")
    assert answer.returncode == 0, answer.stderr
    members = json.loads(run("front", "one", "--json").stdout)
    assert members
    record = read(f"sqlite:///{tmp_path}/mlflow.db", "one")
    assert record.objectives == ("loss", "weight_bytes", "latency_s")
    feasible = [trial for trial in record.trials if trial.result.cost["weight_bytes"] <= record.limits["weight_bytes"]]
    best = min(feasible, key=lambda trial: trial.result.metrics["loss"])
    assert best.number in {row["trial"] for row in members}


def test_a_sweep_that_breaks_off_can_be_resumed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: MakeExperiment
) -> None:
    def broken(*_arguments: object) -> None:
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("search.sweeps.run.evaluate_front_on_test", broken)
        answer = run("sweep", experiment())
    assert answer.returncode == 1
    assert "the disk is full" in answer.stderr
    assert read(f"sqlite:///{tmp_path}/mlflow.db", "one").status == "stopped"
    assert run("resume", "one").returncode == 0
    assert all(row["accuracy_test"] is not None for row in json.loads(run("front", "one", "--json").stdout))
