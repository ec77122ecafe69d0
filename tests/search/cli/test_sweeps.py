"""`bitfront sweeps` lists what is recorded; commands take the latest sweep, and the beginning of a name."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from quant_core.util.errors import InputError
from search import tracking
from search.cli.report import front_command
from search.cli.sweeps import sweeps_command
from search.records.front import front_members, hypervolume_of
from search.records.record import SweepRecord
from search.tasks.metrics.info import MetricInfo

MakeSweep = Callable[..., SweepRecord]


@pytest.fixture
def app(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    made = typer.Typer()
    for name, command in (("sweeps", sweeps_command), ("front", front_command)):
        made.command(name)(command)
    return made


def keep(uri: str, sweep: SweepRecord, experiment: str = "bitfront") -> str:
    tracker = tracking.start(uri, experiment, sweep, {"searcher": "random"})
    for trial in sweep.trials:
        tracker.record(trial)
    assert tracker.finish("finished")
    return tracker.run_id


def run(app: typer.Typer, *words: str) -> str:
    answer = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_sweeps_are_listed_with_the_figures_of_their_fronts(
    store_uri: str, make_sweep: MakeSweep, app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    made = [make_sweep(name, seed=seed, trials=12) for seed, name in enumerate(("digits-tpe", "digits-random", "other"))]
    ids = [keep(store_uri, sweep) for sweep in made]
    rows = json.loads(run(app, "sweeps", "--json"))
    assert [row["sweep"] for row in rows] == ["digits-tpe", "digits-random", "other"]
    assert [row["run_id"] for row in rows] == ids
    for row, sweep in zip(rows, made, strict=True):
        members = front_members(sweep)
        first = min(members, key=lambda trial: (trial.result.figures["error"], trial.result.figures["weight_bytes"]))
        assert (row["trials"], row["front"], row["status"]) == ("12", str(len(members)), "finished")
        assert row["hypervolume"] == hypervolume_of(sweep, members)
        assert row["best"] == first.policy.id
        assert (row["accuracy_valid"], row["weight_bytes"]) == (first.result.metrics["accuracy"], first.result.figures["weight_bytes"])
    text = run(app, "sweeps")
    assert all(name in text for name in ("digits-tpe", "digits-random", "other", "97.00"))


def judged_by_perplexity(sweep: SweepRecord) -> SweepRecord:
    """Return a sweep whose policies have a perplexity of 50 errors, and no accuracy."""
    trials = []
    for trial in sweep.trials:
        error = trial.result.metrics.get("error", 0.0)
        metrics = {"error": error, "loss": error, "perplexity": 50 * error} if trial.result.ok else {}
        trials.append(replace(trial, result=replace(trial.result, metrics=metrics)))
    baseline = {"perplexity_valid": 1.25, "perplexity_test": 1.5, "weight_bytes": 9000.0}
    return replace(sweep, metrics=(MetricInfo("perplexity", False, "", 0.0),), baseline=baseline, trials=tuple(trials))


def test_a_sweep_is_listed_by_its_own_metric(
    store_uri: str, make_sweep: MakeSweep, app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    language = judged_by_perplexity(make_sweep("words", seed=1, trials=12))
    keep(store_uri, language)
    least = min(trial.result.metrics["perplexity"] for trial in front_members(language))
    (row,) = json.loads(run(app, "sweeps", "--json"))
    assert (row["perplexity_valid"], row["perplexity_float_test"]) == (least, 1.5)
    assert not any(name.startswith("accuracy") for name in row)
    text = run(app, "sweeps")
    assert "perplexity" in text
    assert "valid ↓" in text
    (line,) = (line.split() for line in text.splitlines() if line.startswith(" words"))
    assert line[1:3] == [f"{least:.3f}", "1.500"]
    keep(store_uri, make_sweep("images", trials=12))
    lines = {line.split()[0]: line for line in run(app, "sweeps").splitlines() if line.strip()}
    assert "metric" in lines["sweep"]
    assert "perplexity" in lines["words"]
    assert f" {least:.4g} " in lines["words"]
    assert re.search(r"accuracy +\d+\.\d\d % 97\.00 % ", lines["images"]), "figures of different metrics bear their units"


def test_a_store_without_sweeps_says_how_to_begin(store_uri: str, make_sweep: MakeSweep, app: typer.Typer) -> None:
    keep(store_uri, make_sweep("one", trials=3))
    assert "no sweep at" in run(app, "sweeps", "--experiment", "empty")


def test_one_that_cannot_be_read_does_not_hide_the_others(store_uri: str, make_sweep: MakeSweep, app: typer.Typer) -> None:
    import sqlite3

    for name, seed in (("good", 0), ("bad", 1)):
        keep(store_uri, make_sweep(name, seed=seed, trials=3))
    with sqlite3.connect(store_uri.removeprefix("sqlite:///")) as database:
        query = (
            "UPDATE tags SET value = 'x' WHERE key LIKE 'bitfront.record%' AND run_uuid IN (SELECT run_uuid FROM tags WHERE value = 'bad')"
        )
        assert database.execute(query).rowcount
    rows = json.loads(run(app, "sweeps", "--json"))
    assert [row["status"].partition(":")[0] for row in rows] == ["finished", "unreadable"]


def test_the_latest_sweep_and_the_beginning_of_a_name_are_taken(store_uri: str, make_sweep: MakeSweep, app: typer.Typer) -> None:
    for seed, name in enumerate(("digits-tpe-1", "digits-random-1", "other")):
        keep(store_uri, make_sweep(name, seed=seed, trials=5))
    assert "other: 5 trials" in run(app, "front")
    assert "other: 5 trials" in run(app, "front", "latest")
    assert "digits-random-1: 5 trials" in run(app, "front", "digits-r")
    with pytest.raises(InputError, match=r"2 sweeps begin with 'digits' at .*; write more of the name: digits-random-1, digits-tpe-1"):
        run(app, "front", "digits")
    with pytest.raises(InputError, match="no sweep 'di' at"):  # too short to be a beginning
        run(app, "front", "di")


def test_a_sweep_that_is_called_so_comes_first(store_uri: str, make_sweep: MakeSweep, app: typer.Typer, tmp_path: Path) -> None:
    for seed, name in enumerate(("latest", "one", "one-more")):
        keep(store_uri, make_sweep(name, seed=seed, trials=4))
    assert "latest: 4 trials" in run(app, "front", "latest")
    assert "one: 4 trials" in run(app, "front", "one")
