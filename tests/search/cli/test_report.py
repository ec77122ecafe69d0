"""`front`, `show`, `compare` and `ui` print what is promised."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from quant_core.util.errors import InputError
from search import tracking
from search.cli.front_table import _latency_error, print_front
from search.cli.report import compare_command, front_command, show_command, ui_command
from search.records.front import front_members, front_rows
from search.records.record import SweepRecord
from search.report.publish import publish
from search.tracking import names
from search.tracking.client import MlflowClient

MakeSweep = Callable[..., SweepRecord]


@pytest.fixture
def app(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)  # MLflow keeps the database of a relative uri for the whole process
    made = typer.Typer()
    for name, command in (("front", front_command), ("show", show_command), ("compare", compare_command), ("ui", ui_command)):
        made.command(name)(command)
    return made


def keep(uri: str, sweep: SweepRecord) -> str:
    """Put a finished sweep into the store and return its run id."""
    tracker = tracking.start(uri, "bitfront", sweep, {"searcher": "random"})
    for trial in sweep.trials:
        tracker.record(trial)
    members = [trial.number for trial in front_members(sweep)]
    tracker.update_front(members, members[0], 0.5)
    publish(tracker, sweep)
    assert tracker.finish("finished")
    return tracker.run_id


def run(app: typer.Typer, *words: str) -> str:
    answer = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_commands_on_a_stored_sweep(store_uri: str, make_sweep: MakeSweep, app: typer.Typer) -> None:
    sweep = make_sweep("one", trials=25)
    run_id = keep(store_uri, sweep)
    rows = json.loads(run(app, "front", "one", "--json", "--plot", "front.html"))
    assert [row["trial"] for row in rows] == [trial.number for trial in front_members(sweep)]
    assert [row["policy"] for row in rows] == [trial.policy.to_json() for trial in front_members(sweep)]
    assert [row["origin"] for row in rows] == [trial.origin for trial in front_members(sweep)]
    assert all(row["limits"] == sweep.limits and row["float"] == sweep.baseline for row in rows)
    assert all(row["figures"]["loss"] == 2 * row["figures"]["error"] for row in rows)
    assert sum(row["suggested"] for row in rows) == 1
    assert "Plotly.newPlot(" in Path("front.html").read_text()
    every = json.loads(run(app, "front", run_id, "--json", "--all"))
    assert [row["status"] for row in every] == [trial.result.status for trial in sweep.trials]
    text = run(app, "front", "one", "--uri", store_uri, "--experiment", "bitfront")
    assert "25 trials, 2 failed, finished" in text
    assert all(row["id"] in text for row in rows)
    shown = json.loads(run(app, "show", "one", "knee", "--json"))
    assert shown["knee"] is True
    assert shown["policy"] == sweep.trials[shown["trial"]].policy.to_json()
    assert "int8:tensor:ema" in run(app, "show", "one", rows[0]["id"])

    client = MlflowClient(store_uri)
    parent = client.get_run(run_id)
    assert {artifact.path for artifact in client.list_artifacts(run_id)} == {
        "experiment.toml",
        "front.html",
        "front.png",
        "bits.png",
        "front.json",
        "front_table.json",
    }
    table_rows = client.load_table(parent.info.experiment_id, "front_table.json", [run_id])
    assert list(table_rows.columns) == list(front_rows(sweep, front_members(sweep))[0])
    assert list(table_rows["id"]) == [row["id"] for row in rows]
    assert list(table_rows["latency_s"]) == pytest.approx([row["latency_s"] for row in rows])
    assert "25 trials (2 failed)" in parent.data.tags[names.NOTE]


def test_compare_logs_a_run(store_uri: str, make_sweep: MakeSweep, app: typer.Typer) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        keep(store_uri, make_sweep(name, seed=seed, trials=20))
    data = json.loads(run(app, "compare", "one", "two", "--json", "--html", "c.html", "--budget", "weight_bytes=1800", "--log"))
    assert [row["budget"] for row in data["attainment"]["weight_bytes"]] == [1800.0]
    assert "Dominated share" in Path("c.html").read_text()
    client = MlflowClient(store_uri)
    logged = client.get_run(data["run_id"])
    assert logged.data.tags[names.KIND] == "comparison"
    assert logged.data.metrics == {f"hypervolume.{sweep['name']}": sweep["hypervolume"] for sweep in data["sweeps"]}
    assert {artifact.path for artifact in client.list_artifacts(data["run_id"])} == {"comparison.html", "comparison.json"}
    runs = len(client.search_runs([logged.info.experiment_id]))
    text = " ".join(run(app, "compare", "one", "two").split())
    assert len(client.search_runs([logged.info.experiment_id])) == runs, "nothing is logged unless asked"
    assert "run_id" not in json.loads(run(app, "compare", "one", "two", "--json"))
    assert "share of each front" in text
    assert "hypervolume: share of the box from 0 to error = 100.00 %, weight_bytes = " in text
    assert "best validation accuracy within weight_bytes" in text
    with pytest.raises(InputError, match=r"--budget 'x' is not of the form METRIC=LIMIT, for example latency_s=0.002"):
        run(app, "compare", "one", "two", "--budget", "x")


def test_ui_refuses_what_it_cannot_serve(store_uri: str, app: typer.Typer, make_sweep: MakeSweep) -> None:
    import socket

    with pytest.raises(InputError, match=r"no record at sqlite:///absent\.db"):
        run(app, "ui", "--uri", "sqlite:///absent.db")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(InputError, match=rf"port {port} is taken on 127\.0\.0\.1; give another one"):
            run(app, "ui", "--port", port)


def test_ui_prints_where_to_look(store_uri: str, app: typer.Typer, make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = keep(store_uri, make_sweep("one", trials=5))

    class Ended:
        def __init__(self, uri: str, port: int) -> None:
            assert (uri, port) == (store_uri, 5055)

        def wait(self) -> int:
            return 0

        def terminate(self) -> None:
            pass

    monkeypatch.setattr("search.tracking.server.serve", Ended)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    text = run(app, "ui", "one", "--port", "5055", "--uri", store_uri)
    assert not opened, "nobody sits here"
    base = "http://127.0.0.1:5055/#/experiments/1/runs"
    shared = f"{base}?workflowType=machine_learning&viewStateShareKey=bitfront"
    assert f"sweeps of experiment bitfront: {shared}-sweeps\n" in text
    assert f"fronts of experiment bitfront: {shared}&compareRunsMode=CHART\n" in text
    assert f"sweep one: {base}/{run_id}?workflowType=machine_learning\n" in text
    monkeypatch.setattr("search.cli.report.on_a_desktop", lambda: True)
    run(app, "ui", "one", "--port", "5055", "--uri", store_uri)
    assert opened == [f"{shared}-sweeps"]


@pytest.mark.parametrize(("device", "printed"), [("t4", True), ("a100", False), ("../../etc/passwd", False)])
def test_the_front_says_how_far_off_its_latencies_are(
    make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str], device: str, printed: bool
) -> None:
    sweep = replace(make_sweep("one", trials=9), experiment=f'[device]\nname = "{device}"\n')
    rows = front_rows(sweep, front_members(sweep))
    print_front(sweep, [row | {"latency_s": 1e-3} for row in rows])
    text = " ".join(capsys.readouterr().out.split())
    assert ("t4: latency is off by 7.72 % on average, 33.3 % at most" in text) == printed
    assert _latency_error(replace(sweep, experiment="no TOML [")) == ""
