"""The MLflow UI as a person sees it: chromium, headless, on a real server. Skipped where chromium or its driver is missing."""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from search import tracking
from search.problem.pareto import Archive
from search.records.front import front_members
from search.records.record import SweepRecord
from search.report.publish import publish
from search.tracking import names
from search.tracking.server import serve
from search.tracking.view import link

pytestmark = pytest.mark.browser
MakeSweep = Callable[..., SweepRecord]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
PICTURES = Path(os.environ.get("BITFRONT_SCREENSHOTS", "out/screenshots")).absolute()
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage --window-size=1600,1000"
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Browser:
    """The few verbs of the W3C WebDriver protocol that these tests need."""

    def __init__(self, driver: str, profile: Path) -> None:
        options = {"args": [*FLAGS.split(), f"--user-data-dir={profile}"], "binary": shutil.which("chromium")}
        self._base = driver
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        self._base = f"{driver}/session/{session['sessionId']}"

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = json.dumps(body if body is not None else {}).encode() if method == "POST" else None
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=180) as answer:
                return json.loads(answer.read())["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.loads(error.read())["value"]["message"]) from None

    def open(self, address: str) -> None:
        """Load an address once: MLflow takes up a shared view only from an address that it has not yet rewritten, so never reload."""
        self._call("POST", "/url", {"url": f"{address.partition('/#')[0]}/health"})  # of the same origin, and not the application
        for key, value in (("panelOpen_v1", "false"), ("fab.autoOpenedOnFirstLoad_v1", "true")):  # a panel that covers a third of it
            self.script("localStorage.setItem(arguments[0], arguments[1])", f"mlflow.assistant.{key}", value)
        self._call("POST", "/url", {"url": address})

    def script(self, code: str, *arguments: object) -> Any:
        return self._call("POST", "/execute/sync", {"script": code, "args": list(arguments)})

    def text(self) -> str:
        return str(self.script("return document.body.innerText"))

    def wait(self, code: str, seconds: float = 90.0) -> Any:
        """Return the value of a piece of script once it is a true one."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            value = self.script(code)
            if value:
                return value
            time.sleep(0.3)
        self.picture("failed")
        raise AssertionError(f"{code!r} gave nothing in {seconds} s; the page says: {self.text()[:1500]}")

    def enter_frame(self) -> None:
        self.wait("return document.querySelector('iframe') !== null")
        frame = self._call("POST", "/element", {"using": "css selector", "value": "iframe"})
        self._call("POST", "/frame", {"id": {ELEMENT: frame[ELEMENT]}})

    def leave_frame(self) -> None:
        self._call("POST", "/frame", {"id": None})

    def picture(self, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        (PICTURES / f"{name}.png").write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def close(self) -> None:
        self._call("DELETE", "")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("chromium and chromedriver are needed: apt-get install chromium chromium-driver")
    port = free_port()
    with subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        chromium = Browser(f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("chromium"))
        yield chromium
        chromium.close()
        driver.terminate()


def keep(uri: str, sweep: SweepRecord, spool: Path) -> tuple[str, str]:
    """Put a finished sweep into the store; return its experiment's id and its run id."""
    tracker = tracking.start(uri, "bitfront", sweep, {"searcher": sweep.name, "device": "demo", "task": "made-up", "seed": 0}, spool)
    archive = Archive(tuple(sweep.reference[name] for name in sweep.objectives))
    for trial in sweep.trials:
        tracker.record(trial)
        figures = {**trial.result.cost, **trial.result.metrics}
        if trial.result.ok and archive.add(trial.number, [figures[name] for name in sweep.objectives]):
            tracker.update_front(archive.numbers, archive.knee, archive.hypervolume)
    publish(tracker, sweep)
    assert tracker.finish("finished")
    return tracking.sweeps(uri)[0].experiment_id, tracker.run_id


@pytest.fixture(scope="module")
def site(empty_store: Path, tmp_path_factory: pytest.TempPathFactory, make_sweep: MakeSweep) -> Iterator[dict[str, Any]]:
    """Serve a store with two finished sweeps."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(empty_store, folder / "mlflow.db")
    uri, port = f"sqlite:///{folder}/mlflow.db", free_port()
    three = ("error", "weight_bytes", "latency_s")
    sweeps = [make_sweep(name, trials=60, seed=seed, layers=8, objectives=three) for name, seed in (("demo-random", 0), ("demo-tpe", 5))]
    ids = [keep(uri, sweep, folder / "spool") for sweep in sweeps]
    server = serve(uri, port)
    yield {"base": f"http://127.0.0.1:{port}", "experiment": ids[0][0], "runs": [run for _, run in ids], "sweeps": sweeps}
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
    assert points == 2 * (ended + uniform_on_front + 1)  # two panels; baselines on the front and the knee are drawn twice
    browser.wait("return document.querySelectorAll('.heatmaplayer image').length === 2")
    assert browser.script("return document.querySelectorAll('table tbody tr').length") == len(members)
    browser.leave_frame()
    browser.picture("front")


def test_the_shared_view_shows_the_fronts_of_all_sweeps(browser: Browser, site: dict[str, Any]) -> None:
    members = sum(len(front_members(sweep)) for sweep in site["sweeps"])
    browser.open(link(site["experiment"], site["base"]))
    browser.wait(f"return document.body.innerText.includes('{members} matching runs')")
    browser.wait("return [...document.querySelectorAll('input,textarea')].some(e => e.value.includes('bitfront.pareto'))")
    browser.wait("return document.body.innerText.includes('Pareto fronts')")
    for chart in ("latency_s vs. error", "weight_bytes vs. error", "Parallel Coordinates"):
        browser.wait(f"return document.body.innerText.includes('{chart}')")
    browser.wait(f"return document.querySelectorAll('.scatterlayer path.point').length === {2 * members}")
    axes = "[...document.querySelectorAll('.parcoords text.label')].map(t => t.textContent).join(' ')"
    browser.wait(f"return {axes} === 'searcher bits_weight_avg latency_s weight_bytes error'")
    browser.picture("pareto-view")


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
