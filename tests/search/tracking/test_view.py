"""The MLflow UI as a person sees it: chromium, headless, on a real server. Skipped where chromium or its driver is missing."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from search import tracking
from search.problem.pareto import Archive
from search.records.compare import compare
from search.records.front import front_members
from search.records.palette import BASELINES, PALETTE
from search.records.record import SweepRecord
from search.records.summary import best_uniform, headline
from search.report.comparison import comparison_page
from search.report.publish import publish
from search.tracking import names
from search.tracking.comparison import log_comparison
from search.tracking.server import serve
from search.tracking.view import link, sweeps_link
from tests.search.browser import Browser, free_port

pytestmark = pytest.mark.browser
MakeSweep = Callable[..., SweepRecord]


def keep(uri: str, sweep: SweepRecord, spool: Path) -> tuple[str, str]:
    """Put a finished sweep into the store; return its experiment's id and its run id."""
    tracker = tracking.start(uri, "bitfront", sweep, {"searcher": sweep.name, "device": "demo", "task": "made-up", "seed": 0}, spool)
    archive = Archive(tuple(sweep.reference[name] for name in sweep.objectives))
    for trial in sweep.trials:
        tracker.record(trial)
        figures = {**trial.result.cost, **trial.result.metrics}
        if trial.result.ok and archive.add(trial.number, [figures[name] for name in sweep.objectives]):
            tracker.update_front(archive.numbers, archive.knee, archive.hypervolume)
    publish(tracker, replace(sweep, run_id=tracker.run_id))
    assert tracker.finish("finished")
    return tracking.sweeps(uri)[0].experiment_id, tracker.run_id


@pytest.fixture(scope="module")
def site(empty_store: Path, tmp_path_factory: pytest.TempPathFactory, make_sweep: MakeSweep) -> Iterator[dict[str, Any]]:
    """Serve a store with two finished sweeps of 150 trials: three of MLflow's lots of 100 runs."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(empty_store, folder / "mlflow.db")
    uri, port = f"sqlite:///{folder}/mlflow.db", free_port()
    three = ("error", "weight_bytes", "latency_s")
    sweeps = [make_sweep(name, trials=150, seed=seed, layers=8, objectives=three) for name, seed in (("demo-random", 0), ("demo-tpe", 5))]
    ids = [keep(uri, sweep, folder / "spool") for sweep in sweeps]
    server = serve(uri, port)
    yield {"base": f"http://127.0.0.1:{port}", "experiment": ids[0][0], "runs": [run for _, run in ids], "sweeps": sweeps, "uri": uri}
    server.terminate()
    server.wait()
    assert server.stderr is not None
    server.stderr.close()


def test_the_front_renders_on_the_sweeps_page(browser: Browser, site: dict[str, Any]) -> None:
    sweep = site["sweeps"][0]
    browser.open(f"{site['base']}/#/experiments/{site['experiment']}/runs/{site['runs'][0]}/artifacts/front.html")
    browser.enter_frame()
    browser.wait("return document.querySelectorAll('.heatmaplayer image').length > 0")  # the figure after the front
    ended = sum(trial.result.ok for trial in sweep.trials)
    members = front_members(sweep)
    uniform_on_front = sum(trial.origin == "baseline" for trial in members)
    points = browser.script("return document.querySelector('.plotly-graph-div').querySelectorAll('.scatterlayer path.point').length")
    assert points == ended + uniform_on_front + 3  # some are drawn twice: uniform, knee, suggested, best uniform
    browser.wait("return document.querySelectorAll('.heatmaplayer image').length === 2")
    assert browser.script("return document.querySelectorAll('table tbody tr').length") == len(members)
    browser.script("document.querySelector('button[data-policy]').click()")
    address = browser.script("return document.querySelector('#panel a').href")
    browser.leave_frame()
    browser.picture("front")
    assert address.endswith(f"/#/runs/{site['runs'][0]}")
    browser.open(f"{site['base']}/#{address.partition('#')[2]}")
    browser.wait(f"return document.body.innerText.includes('{sweep.name}')")


def test_the_shared_view_shows_the_fronts_of_all_sweeps(browser: Browser, site: dict[str, Any]) -> None:
    charted = [{t.number for t in (*front_members(sweep), *sweep.trials[:2])} for sweep in site["sweeps"]]  # the first two are uniform
    members = sum(map(len, charted))
    browser.open(link(site["experiment"], site["base"]))
    browser.wait(f"return document.body.innerText.includes('{members} matching runs')")
    browser.wait("return [...document.querySelectorAll('input,textarea')].some(e => e.value.includes('bitfront.charted'))")
    browser.wait("return document.body.innerText.includes('Pareto fronts')")
    for chart in ("latency_ms vs. error_percent", "size_KiB vs. error_percent"):
        browser.wait(f"return document.body.innerText.includes('{chart}')")
    browser.wait(f"return document.querySelectorAll('.scatterlayer path.point').length === {2 * members}")
    browser.picture("pareto-view")
    colours = set(browser.script("return [...document.querySelectorAll('.scatterlayer path.point')].map(p => getComputedStyle(p).fill)"))
    wanted = {f"rgb({', '.join(str(int(hue[i : i + 2], 16)) for i in (1, 3, 5))})" for hue in (*PALETTE[:2], BASELINES)}
    assert colours == wanted, "a colour per sweep, and one for uniform policies"
    for name in ("demo-random/0000 uniform", "demo-tpe/0001 uniform"):
        browser.wait(f"return document.body.textContent.includes('{name}')")
    scrolled = "[...document.querySelectorAll('div')].filter(e => e.scrollHeight > e.clientHeight + 400 && e.clientWidth > 700)"
    browser.script(f"{scrolled}.forEach(e => e.scrollTop = 450)")  # charts further down are drawn when they are seen
    axes = "[...document.querySelectorAll('.parcoords text.label')].map(t => t.textContent).join(' ')"
    browser.wait(f"return {axes} === 'sweep bits_weight_avg latency_ms size_KiB error_percent'")


def test_the_list_of_sweeps_shows_their_figures(browser: Browser, site: dict[str, Any]) -> None:
    browser.open(sweeps_link(site["experiment"], site["base"]))
    browser.wait("return document.body.innerText.includes('2 matching runs')")
    text = browser.wait("const t = document.body.innerText; return t.includes('demo-random') && t.includes('demo-tpe') && t")
    browser.picture("sweeps-view")
    cells = "[...document.querySelectorAll('.ag-header-cell')].sort((a, b) => a.getBoundingClientRect().x - b.getBoundingClientRect().x)"
    headers = [title for title in browser.script(f"return {cells}.map(cell => cell.innerText.trim())") if title]
    assert headers[headers.index("task") :][:5] == ["task", "device", "searcher", "best_valid_percent", "best_size_KiB"]
    for sweep in site["sweeps"]:
        figures = headline(sweep, front_members(sweep), best_uniform(sweep), len(sweep.trials))
        for name in ("best_valid_percent", "best_size_KiB", "float_valid_percent", "float_test_percent"):
            assert f"{figures[name]:.10g}" in text, name


def test_a_tag_filters_every_sweeps_front(browser: Browser, site: dict[str, Any]) -> None:
    query = quote(f"tags.`{names.PARETO}` = 'true' and tags.`{names.SWEEP}` = 'demo-tpe'")
    browser.open(f"{site['base']}/#/experiments/{site['experiment']}/runs?searchFilter={query}&orderByKey={quote('metrics.`error`')}")
    browser.wait(f"return document.body.innerText.includes('{len(front_members(site['sweeps'][1]))} matching runs')")
    browser.picture("filter")


def test_the_fronts_of_two_sweeps_compare(browser: Browser, site: dict[str, Any]) -> None:
    members = sum(len(front_members(sweep)) for sweep in site["sweeps"])
    query = quote(f"tags.`{names.PARETO}` = 'true'")
    browser.open(f"{site['base']}/#/experiments/{site['experiment']}/runs?searchFilter={query}&orderByKey={quote('metrics.`error`')}")
    browser.wait(f"return document.body.innerText.includes('{members} matching runs')")
    browser.script("document.querySelector('.ag-header-select-all input, .ag-header input[type=checkbox]').click()")
    compare = "[...document.querySelectorAll('button')].find(b => b.innerText.trim() === 'Compare' && !b.disabled)"
    browser.wait(f"return !!{compare}")
    browser.script(f"{compare}.click()")
    browser.wait(f"return document.body.innerText.includes('Comparing {members} Runs')")
    text = browser.wait("const t = document.body.innerText; return t.includes('weight_bytes') && t.includes('demo-tpe/') && t")
    assert "demo-random/" in text
    assert "demo-tpe/" in text
    browser.picture("compare")


def test_two_sweeps_compare(browser: Browser, site: dict[str, Any]) -> None:
    runs, experiments = quote(json.dumps(site["runs"])), quote(json.dumps([site["experiment"]]))
    browser.open(f"{site['base']}/#/compare-runs?runs={runs}&experiments={experiments}")
    browser.wait("return document.body.innerText.includes('Comparing 2 Runs')")
    text = browser.wait("return document.body.innerText.includes('hypervolume') && document.body.innerText")
    assert "demo-random" in text
    assert "demo-tpe" in text
    browser.picture("compare-sweeps")


def test_a_logged_comparison_is_in_the_list_with_its_page(browser: Browser, site: dict[str, Any]) -> None:
    ids = {sweep.name: run for sweep, run in zip(site["sweeps"], site["runs"], strict=True)}
    page = comparison_page(compare(site["sweeps"]))
    run_id = log_comparison(site["uri"], ids, {"hypervolume.demo-tpe": 0.5}, {"comparison.html": page}, "### Comparison")
    browser.open(sweeps_link(site["experiment"], site["base"]))
    browser.wait("return document.body.innerText.includes('3 matching runs')")
    browser.wait("return document.body.innerText.includes('compare demo-random demo-tpe')")
    link = "document.querySelector(`a[href*='RUN']`)".replace("RUN", run_id)
    browser.wait(f"return {link} !== null")
    browser.open(f"{site['base']}/#/experiments/{site['experiment']}/runs/{run_id}/artifacts/comparison.html")
    browser.enter_frame()
    browser.wait("return document.querySelectorAll('.scatterlayer path.point').length > 9")
    browser.leave_frame()
