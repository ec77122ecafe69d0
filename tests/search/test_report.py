"""Figures hold the points they claim, pages load nothing, commands print what is promised."""

import json
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from quant_core.util.errors import InputError
from search import tracking
from search.cli.report import compare_command, front_command, show_command, ui_command
from search.problem.pareto import Archive
from search.records.compare import compare
from search.records.front import front_members
from search.records.record import SweepRecord
from search.report.comparison import comparison_page, fronts_figure
from search.report.figures import bits_figure, front_figure, hypervolume_curve, hypervolume_figure
from search.report.page import page, sweep_page, table
from search.report.png import bits_png, front_png
from search.report.publish import note, publish
from search.tracking import names
from search.tracking.client import MlflowClient

MakeSweep = Callable[..., SweepRecord]
EXTERNAL = re.compile(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)\s*=\s*["']?https?:""", re.IGNORECASE)


def test_the_front_figure_shows_every_trial_once(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=40, limits={"weight_bytes": 2000.0})
    traces = {trace.name: trace for trace in front_figure(sweep).data}
    members = front_members(sweep)
    ended = sum(trial.result.ok for trial in sweep.trials)
    assert len(traces["trials"].x) + len(traces["uniform baselines"].x) + len(traces["front"].x) == ended
    assert len(traces["front"].x) == len(members)
    assert len(traces["knee"].x) == 1
    assert sorted(traces["front"].y) == pytest.approx(sorted(100 * trial.result.metrics["error"] for trial in members))
    sizes = sorted(trial.result.cost["weight_bytes"] / 1024 for trial in members)
    assert list(traces["front"].x) == pytest.approx(sizes)
    assert front_figure(sweep).layout.shapes[0].x0 == pytest.approx(2000 / 1024)  # the limit


def test_three_objectives_give_two_panels(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=30, objectives=("error", "weight_bytes", "latency_s"))
    figure = front_figure(sweep)
    assert figure.layout.xaxis.title.text == "weight [KiB]"
    assert figure.layout.xaxis2.title.text == "latency [ms]"
    assert [len(trace.x) for trace in figure.data if trace.name == "front"] == [len(front_members(sweep))] * 2


def test_the_heat_map_holds_the_bits(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=30)
    weights, activations = bits_figure(sweep).data
    members = sorted(front_members(sweep), key=lambda trial: trial.result.cost["weight_bytes"])
    assert list(weights.x) == [trial.policy.id for trial in members]
    assert list(weights.y) == list(members[0].policy)
    assert [list(line) for line in weights.z] == [list(line) for line in zip(*(trial.values for trial in members), strict=True)]
    assert {bits for line in activations.z for bits in line} == {8}


def test_the_hypervolume_curve_is_the_archives(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=30)
    archive = Archive(tuple(sweep.reference[name] for name in sweep.objectives))
    expected = []
    for trial in sweep.trials:
        if trial.result.ok:
            archive.add(trial.number, (trial.result.metrics["error"], trial.result.cost["weight_bytes"]))
        expected.append(archive.hypervolume)
    steps, volumes = hypervolume_curve(sweep)
    at = dict(zip(steps, volumes, strict=True))
    assert steps[-1] == 30
    assert all(at[count] == pytest.approx(expected[count - 1]) for count in steps[1:])
    assert list(hypervolume_figure(sweep).data[0].y) == volumes


def test_an_empty_front_still_gives_a_page(make_sweep: MakeSweep) -> None:
    empty = make_sweep(trials=4, limits={"weight_bytes": 1.0})
    assert "0 policies on the front of 4 trials" in sweep_page(empty)
    assert front_png(empty)[:4] == bits_png(empty)[:4] == b"\x89PNG"
    assert "0 policies on the front" in note(replace(empty, trials=()))
    assert sweep_page(replace(empty, trials=()))


def test_pages_work_offline(make_sweep: MakeSweep) -> None:
    sweep = make_sweep("a<b", trials=20)
    for text in (sweep_page(sweep), comparison_page(compare([sweep, make_sweep("other", seed=1)]))):
        assert not EXTERNAL.search(text)
        assert text.count("Plotly.newPlot(") >= 1
        assert 4_000_000 < len(text) < 6_000_000  # plotly's script once
    assert "a&lt;b" in sweep_page(sweep)
    assert page("t", ["<p>x</p>"]).endswith("<h2>t</h2><p>x</p></body></html>")


def test_tables_are_escaped_and_marked() -> None:
    text = table([{"a": "<i>", "b": 0.123456789, "k": True}, {"a": None, "b": 2, "k": False}], "k")
    assert "<tr class=mark><td>&lt;i&gt;</td><td>0.123457</td>" in text
    assert "<tr><td></td><td>2</td>" in text


def test_pictures_are_png_of_some_size(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(trials=30, objectives=("error", "weight_bytes", "latency_s"))
    for data in (front_png(sweep), bits_png(sweep)):
        width, height = struct.unpack(">II", data[16:24])
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert width > 300
        assert height > 200


def test_a_comparison_has_a_panel_per_pair(make_sweep: MakeSweep) -> None:
    three = ("error", "weight_bytes", "latency_s")
    found = compare([make_sweep("a", objectives=three), make_sweep("b", seed=1, objectives=three)])
    traces = fronts_figure(found).data
    assert [trace.name for trace in traces] == ["a", "b"] * 3
    assert [len(trace.x) for trace in traces[:2]] == [len(members) for members in found.fronts]


@pytest.fixture
def app() -> typer.Typer:
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
    assert {each.path for each in client.list_artifacts(run_id)} == {
        "experiment.toml",
        "front.html",
        "front.png",
        "bits.png",
        "front.json",
        "front_table.json",
    }
    table_rows = client.load_table(parent.info.experiment_id, "front_table.json", [run_id])
    assert list(table_rows.columns) == list(rows[0])
    assert list(table_rows["id"]) == [row["id"] for row in rows]
    assert list(table_rows["latency_s"]) == pytest.approx([row["latency_s"] for row in rows])
    assert "25 trials (2 failed)" in parent.data.tags[names.NOTE]


def test_compare_logs_a_run(store_uri: str, make_sweep: MakeSweep, app: typer.Typer) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        keep(store_uri, make_sweep(name, seed=seed, trials=20))
    data = json.loads(run(app, "compare", "one", "two", "--json", "--html", "c.html", "--budget", "weight_bytes=1800"))
    assert [row["budget"] for row in data["attainment"]["weight_bytes"]] == [1800.0]
    assert "Dominated share" in Path("c.html").read_text()
    client = MlflowClient(store_uri)
    logged = client.get_run(data["run_id"])
    assert logged.data.tags[names.KIND] == "comparison"
    assert logged.data.metrics == {f"hypervolume.{each['name']}": each["hypervolume"] for each in data["sweeps"]}
    assert {each.path for each in client.list_artifacts(data["run_id"])} == {"comparison.html", "comparison.json"}
    text = " ".join(run(app, "compare", "one", "two").split())
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
    text = run(app, "ui", "one", "--port", "5055", "--uri", store_uri)
    base = "http://127.0.0.1:5055/#/experiments/1/runs"
    assert f"fronts of experiment bitfront: {base}?viewStateShareKey=bitfront&compareRunsMode=CHART\n" in text
    assert f"sweep one: {base}/{run_id}\n" in text
