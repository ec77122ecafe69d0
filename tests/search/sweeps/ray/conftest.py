"""A command in an empty folder, and a cluster of three nodes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.search.sweeps.ray.cases import HELPERS, ROOT, Command, Nodes


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HELPERS))
    monkeypatch.setenv("PYTHONPATH", f"{HELPERS}:{ROOT}")
    monkeypatch.setenv("BITFRONT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Command(tmp_path)


@pytest.fixture(scope="session")
def patience() -> int:
    """Return a limit of seconds for one trial that a healthy one keeps on this busy machine: three imports of torch, at least 10.

    A trial takes milliseconds; what may hold it up is what holds up everything else.
    """
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return max(10, round(3 * (time.monotonic() - begun)))


@pytest.fixture(scope="package")
def nodes() -> Iterator[Nodes]:
    environment = {**os.environ, "PYTHONPATH": f"{HELPERS}:{ROOT}", "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, str(HELPERS / "own_cluster.py"), "3"],
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    with process:
        yield Nodes(process)
        process.communicate(timeout=240)
