"""The study of a sweep as optuna-dashboard shows it. Skipped where it, chromium or its driver is missing."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from search.records.record import SweepRecord
from search.searchers.optuna.recorded import write_study
from tests.search.browser import Browser, free_port

pytestmark = pytest.mark.browser
MakeSweep = Callable[..., SweepRecord]
SERVE = "import sys; from optuna_dashboard import run_server; run_server(sys.argv[1], host='127.0.0.1', port=int(sys.argv[2]))"
ANSWERS = "import sys, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{sys.argv[1]}/api/studies')"


@pytest.fixture
def served(make_sweep: MakeSweep, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Serve the study of a sweep; give the address and the study's name."""
    pytest.importorskip("optuna_dashboard", reason="needs the extra: pip install -e '.[dev]'")
    storage, port = f"sqlite:///{tmp_path}/optuna.db", free_port()
    study = write_study(make_sweep("demo", trials=40, limits={"weight_bytes": 9000.0}), storage)
    command = [sys.executable, "-W", "ignore", "-c", SERVE, storage, str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        for _ in range(100):
            if subprocess.run([sys.executable, "-c", ANSWERS, str(port)], capture_output=True, check=False).returncode == 0:
                break
        yield f"http://127.0.0.1:{port}", study
        server.terminate()


def test_the_dashboard_shows_the_trials_of_a_sweep(served: tuple[str, str], browser: Browser) -> None:
    address, study = served
    browser.load(f"{address}/dashboard")
    browser.wait(f"return document.body.innerText.includes('{study}')")
    browser.load(f"{address}/dashboard/studies/1")
    browser.wait("return document.querySelectorAll('.js-plotly-plot .point, .js-plotly-plot path').length > 20")
    browser.wait("return document.body.innerText.includes('Pareto Front') || document.body.innerText.includes('Pareto-Front')")
    browser.picture("optuna-dashboard")
    for words in (study, "error", "weight_bytes"):
        assert words in browser.text()
