"""Fixtures shared by all tests."""

import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# One thread per process, before torch is imported: two processes run tests at once, and threads that wait for a busy core spin; the haq
# searchers' tests took seven times the processor time with two.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No limit of wall time per example: other work on the machine must fail no test. In CI the same examples every time; elsewhere every run
# tries new ones.
hypothesis.settings.register_profile(
    "bitfront", derandomize=bool(os.environ.get("CI")), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("bitfront")
ON_NODES = {
    f"tests/search/sweeps/ray/{name}.py": cluster
    for name, cluster in {"test_backend": "one", "test_schedulers": "one", "test_backend_hardships": "two", "test_cluster": "two"}.items()
}
"""Files that share a cluster of three nodes, which takes long to start: one process runs those of each."""
HEAVY = (
    *ON_NODES,
    "tests/test_accelerators.py",
    "tests/search/exporters/test_all_formats.py",
    "tests/benchmarks/test_torture.py",
    "tests/docs/test_build.py",
    "tests/bitfront/test_wheel.py",
    "tests/bitfront/test_large_layers.py",
    "tests/bitfront/test_notebook.py",
    "tests/search/exporters/test_same_bytes.py",
    "tests/search/tracking/test_server.py",
    "tests/search/tracking/test_view.py",
)
"""Files that take half a minute or more: they come first, so that no process is left with one of them when the others have ended."""
SHARED = Path(__file__).parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data sets and trained networks, or skip where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is absent: {folder} does not exist")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _tables_made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let MLflow migrate the first SQLite file of this process, and copy its empty tables into every later one: they take it a second."""
    import mlflow.store.db.utils as tables

    make, first = tables._initialize_tables, tmp_path_factory.mktemp("tables") / "mlflow.db"

    def copied(engine: Any) -> None:
        file = engine.url.database if engine.dialect.name == "sqlite" else ""
        if file in ("", ":memory:") or not first.exists():
            make(engine)
        if file not in ("", ":memory:"):
            source, target = (first, file) if first.exists() else (file, first)
            with closing(sqlite3.connect(source)) as there, closing(sqlite3.connect(target)) as here:
                there.backup(here)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_initialize_tables", copied)
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Let networks and data that a test makes without a seed be the same in every run."""
    import torch

    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes that run exported files be forked from one that has imported the runtimes."""
    from quant_core.export import processes
    from tests.forked import Forked

    monkeypatch.setattr(processes, "started", Forked)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes run tests, let the heavy files come first, then those of many tests."""
    if hasattr(config, "workerinput"):
        tests = Counter(_file(item.nodeid) for item in items)
        ranks = {file: rank for rank, file in enumerate(HEAVY)}
        items.sort(key=lambda item: (ranks.get(_file(item.nodeid), len(HEAVY)), -tests[_file(item.nodeid)], _file(item.nodeid)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Compile the formats' loops in one process while several others collect tests: in a fresh checkout each would compile its own."""
    process = subprocess.Popen([sys.executable, "-m", "tests.compiled"], cwd=Path(__file__).parent.parent)
    config.add_cleanup(process.wait)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Hand out whole files in the order in which they are collected, those on one cluster together."""
    from xdist.scheduler import LoadFileScheduling

    class HeavyFirst(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return ON_NODES.get(_file(nodeid), _file(nodeid))

    config.option.loadscopereorder = False
    return HeavyFirst(config, log) if config.getoption("dist") == "loadfile" else None


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]
