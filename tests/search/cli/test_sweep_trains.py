"""Sweeps that train: every policy, up a ladder, by a population."""

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from search.tracking import read
from tests.forked import Started

MakeExperiment = Callable[..., Path]
Trials = Callable[[str], list[dict[str, Any]]]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_sweep_that_trains_every_policy(run: Run, tmp_path: Path, experiment: MakeExperiment, trials: Trials) -> None:
    path = experiment(change=("[search]", '[evaluate]\nfidelity = "qat"\nqat = { method = "ste", epochs = 2 }\n[search]'))
    answer = run("sweep", path, "search.searcher=random", "search.trials=7")
    assert answer.returncode == 0, answer.stderr
    rows = trials("one")
    assert run("sweep", path, "search.searcher=random", "search.trials=7", "name=ptq", "evaluate.fidelity=ptq").returncode == 0
    pairs = list(zip(rows, trials("ptq"), strict=True))
    assert all(trained["id"] == quantized["id"] for trained, quantized in pairs)
    assert sum(trained["accuracy_valid"] != quantized["accuracy_valid"] for trained, quantized in pairs) >= 3
    assert "qat has no field 'epoch'" in run("sweep", path, "evaluate.qat.epoch=1").stderr


LADDER = (
    "[search]",
    '[evaluate]\nladder = ["adaround", "qat"]\ntop_k = 3\nepochs = 2\nqat = { method = "lsq", lr = 0.01 }\n[search]',
)


def test_what_is_near_the_front_climbs_the_ladder(run: Run, tmp_path: Path, experiment: MakeExperiment, trials: Trials) -> None:
    answer = run("sweep", experiment(change=LADDER), "search.searcher=random", "search.trials=9")
    assert answer.returncode == 0, answer.stderr
    rows = trials("one")
    assert [row["fidelity"] for row in rows] == ["ptq"] * 9 + ["adaround"] * 3 + ["qat"] * 3
    assert [row["origin"] for row in rows[9:]] == ["ladder"] * 6
    members = json.loads(run("front", "one", "--json").stdout)
    assert all(row["accuracy_test"] is not None for row in members)
    trained = [row for row in members if row["fidelity"] == "qat"]
    assert trained, "training gains at two bits"
    record = read(f"sqlite:///{tmp_path}/mlflow.db", "one")
    best = record.trials[trained[0]["trial"]]
    assert [len(trial.result.epochs) for trial in record.trials] == [0] * 12 + [2] * 3
    assert best.result.epochs[-1]["accuracy"] == best.result.metrics["accuracy"]
    assert f"by ladder, {best.result.fidelity}" in re.sub(r"\s+", " ", run("show", "one", best.policy.id).stdout)
    out = tmp_path / "out"
    assert run("export", "one", "--pick", best.policy.id, "-f", "safetensors", "--out", out).returncode == 0
    report = json.loads((out / "export.json").read_text())
    assert report["metrics"]["valid"]["accuracy"] == best.result.metrics["accuracy"], "trained again, or taken from the cache"
    assert report["metrics"]["test"]["accuracy"] == best.test["accuracy"]
    assert "Trained under the policy by `lsq` for 2 epochs, from the float weights." in (out / "README.md").read_text()
    shown = _child(f"sqlite:///{tmp_path}/mlflow.db", record.run_id, best.number)
    assert shown["params"]["fidelity"] == "qat"
    assert shown["epochs"] == [1, 2]


def _child(uri: str, parent: str, number: int) -> dict[str, Any]:
    """Return parameters and steps of the training curve of a trial's run, through MLflow itself."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    query = f"tags.`bitfront.trial_uid` = '{parent}:{number}'"
    (trial,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()], query)
    steps = [point.step for point in client.get_metric_history(trial.info.run_id, "epoch_accuracy")]
    return {"params": trial.data.params, "epochs": steps}


def test_a_ladder_that_is_killed_goes_on(
    run: Run,
    tmp_path: Path,
    finished_trials: Callable[[str], dict[str, list[int]]],
    experiment: MakeExperiment,
    trials: Trials,
    environment: dict[str, str],
) -> None:
    command = ["search.searcher=random", "search.trials=6", "evaluate.start=nearest"]
    assert run("sweep", experiment("whole", change=LADDER), *command).returncode == 0
    shutil.rmtree(tmp_path / "cache")
    path = experiment("part", change=LADDER)
    with Started("sweep", str(path), *command, "--log", "json", cwd=tmp_path, env=environment) as process:
        for line in process.stderr:
            if line.startswith("{") and json.loads(line)["done"] >= 10:
                break
        process.send_signal(signal.SIGKILL)
    assert 10 <= len(trials("part")) < 12
    assert run("resume", "part").returncode == 0
    keys = ("trial", "id", "accuracy_valid", "accuracy_test", "weight_bytes", "status", "origin", "fidelity", "front")
    part, whole = ([[row[key] for key in keys] for row in trials(name)] for name in ("part", "whole"))
    assert part == whole
    assert finished_trials(f"sqlite:///{tmp_path}/mlflow.db") == {"whole": list(range(12)), "part": list(range(12))}


def test_a_population_breeds_how_policies_are_trained(run: Run, tmp_path: Path, experiment: MakeExperiment) -> None:
    bred = 'scheduler = "pbt"\nscheduler_options = { members = 3 }\n'
    path = experiment(change=("[search]", f"[run]\n{bred}{LADDER[1]}"))
    options = ("search.searcher=random", "search.trials=5", 'evaluate.ladder=["qat"]', "evaluate.top_k=2", "evaluate.qat.distill=0.2")
    answer = run("sweep", path, *options)
    assert answer.returncode == 0, answer.stderr
    record = read(f"sqlite:///{tmp_path}/mlflow.db", "one")
    trained = [trial for trial in record.trials if trial.result.fidelity == "qat"]
    assert len(trained) == 2
    for trial in trained:
        assert [set(epoch) >= {"lr", "distill", "accuracy"} for epoch in trial.result.epochs] == [True, True]
        assert trial.result.epochs[-1]["accuracy"] == trial.result.metrics["accuracy"]
    assert "members = 1 of scheduler 'pbt' given" in run("sweep", path, *options, "name=two", "run.scheduler_options.members=1").stderr
