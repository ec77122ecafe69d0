"""A record runs code only where its user started it, or said that it may."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from quant_core.util.errors import InputError
from search import tracking
from search.config.files import loads, template
from search.exporters.flow import export
from search.records.record import SweepRecord
from search.sweeps.run import resume
from search.sweeps.trust import own_code, remember, require_trust

Call = Callable[..., "subprocess.CompletedProcess[str]"]
ROOT = Path(__file__).parents[3]
OWN = """
[task]
name = "{task}"
[space]
weight = "int8:channel"
activation = "int8:tensor"
[device]
name = "{device}"
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "cache"))


def hostile(sweep: SweepRecord, task: str = "owned_module:task", device: str = "generic-cpu") -> SweepRecord:
    return replace(sweep, experiment=OWN.format(task=task, device=device))


def keep(uri: str, sweep: SweepRecord) -> str:
    tracker = tracking.start(uri, "bitfront", sweep, {"searcher": "random"})
    for trial in sweep.trials:
        tracker.record(trial)
    assert tracker.finish("stopped")
    return tracker.run_id


def test_ready_parts_are_no_code_of_a_record() -> None:
    assert own_code(loads(template())) == ()
    assert own_code(loads(OWN.format(task="digits", device="generic-cpu"), overrides=["search.searcher=ray:tpe"])) == ()
    assert own_code(loads(OWN.format(task="task:object", device="generic-cpu"))) == ()


@pytest.mark.parametrize(
    "override",
    [
        "task.name=os:system",
        "task.options.network=evil.module:make",
        "task.options.nested=[['evil:make']]",
        "search.searcher=evil:Searcher",
        "run.backend=evil:run",
        "evaluate.qat.optimizer=evil:make",
        "device.name=evil.toml",
    ],
)
def test_every_way_to_name_code_is_seen(override: str) -> None:
    code = own_code(loads(OWN.format(task="digits", device="generic-cpu"), overrides=[override]))
    assert len(code) == 1


def test_a_foreign_sweep_asks_once_and_a_changed_one_again(make_sweep: Callable[..., SweepRecord]) -> None:
    sweep = hostile(make_sweep(trials=2))
    with pytest.raises(InputError, match=r"would run code: task.name = 'owned_module:task'.*add --trust"):
        require_trust(sweep, trust=False)
    require_trust(sweep, trust=False, task_given=True)
    require_trust(sweep, trust=True)
    require_trust(sweep, trust=False)
    with pytest.raises(InputError, match="os:system"):
        require_trust(hostile(sweep, "os:system"), trust=False)
    with pytest.raises(InputError, match="add --trust"):
        require_trust(replace(sweep, fingerprints={"weights": "other"}), trust=False)


def test_one_that_was_started_here_does_not_ask(make_sweep: Callable[..., SweepRecord]) -> None:
    sweep = hostile(make_sweep(trials=2))
    remember(sweep)
    require_trust(sweep, trust=False)


def test_a_run_id_that_is_a_path_is_refused(make_sweep: Callable[..., SweepRecord], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no MLflow run id"):
        require_trust(replace(hostile(make_sweep(trials=2)), run_id="../../x"), trust=True)
    assert not list(tmp_path.rglob("x"))


def test_reading_imports_nothing_and_running_asks(
    store_uri: str, make_sweep: Callable[..., SweepRecord], bitfront: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owned_module.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w').close(); raise SystemExit(77)")
    monkeypatch.syspath_prepend(str(tmp_path))
    keep(store_uri, hostile(make_sweep("one", trials=4)))
    keep(store_uri, hostile(make_sweep("two", trials=4, seed=1)))
    for words in (("front", "one"), ("front", "one", "--plot", "page.html"), ("show", "one", "knee"), ("compare", "one", "two")):
        answer = bitfront(*words, "--uri", store_uri)
        assert answer.returncode == 0, answer.stderr
    for words in (("resume", "one"), ("export", "one", "--out", "out"), ("solve", "one", "--budget", "weight_bytes=1000")):
        answer = bitfront(*words, "--uri", store_uri)
        assert answer.returncode == 2, answer.stderr
        assert "add --trust" in answer.stderr
    with pytest.raises(InputError, match="add --trust"):
        resume(store_uri, "one")
    with pytest.raises(InputError, match="add --trust"):
        export(store_uri, "one", "knee", ["policy"], tmp_path / "out")
    code = (
        "import bitfront, sys\n"
        f"sweep = bitfront.load('one', uri={store_uri!r})\n"
        "sweep.front()\n"
        "try: sweep.model(0)\n"
        "except bitfront.InputError as error: sys.exit(0 if '--trust' in str(error) else 1)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == 0
    assert not (tmp_path / "owned").exists()
    assert "owned_module" not in sys.modules
    assert bitfront("resume", "one", "--uri", store_uri, "--trust").returncode != 2
    assert (tmp_path / "owned").exists()


def test_ui_imports_nothing(
    store_uri: str, make_sweep: Callable[..., SweepRecord], monkeypatch: pytest.MonkeyPatch, bitfront: Call
) -> None:
    class Ended:
        def wait(self) -> int:
            return 0

        def terminate(self) -> None:
            pass

    keep(store_uri, hostile(make_sweep("one", trials=2), "this_module_is_not_there:task"))
    monkeypatch.setattr("search.tracking.server.serve", lambda *_: Ended())
    answer = bitfront("ui", "one", "--uri", store_uri)
    assert answer.returncode == 0, answer.stderr
