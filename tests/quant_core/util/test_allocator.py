"""Pages that were used once stay: counted as page faults of a second pass, in processes of their own."""

import os
import platform
import subprocess
import sys

import pytest

import search.cli.app
from quant_core.util import allocator

GLIBC = platform.libc_ver()[0] == "glibc"
COUNT = """
import resource, sys
import numpy as np
from quant_core.util.allocator import keep_pages

if sys.argv[1] == "kept":
    assert keep_pages()


def touch():
    block = np.empty(48 * 2**20, dtype=np.uint8)
    block[::4096] = 1


touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    environment = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}  # so that every page of 4 KiB is a fault of its own
    run = subprocess.run([sys.executable, "-c", COUNT, mode], env=environment, capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc, whose allocator this is about")
def test_a_second_pass_faults_in_nothing() -> None:
    assert faults("as it was") > 1000
    assert faults("kept") < 200


def test_it_is_left_alone_where_there_is_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.keep_pages()


def test_the_command_line_keeps_its_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(search.cli.app, "keep_pages", lambda: calls.append(True))
    monkeypatch.setattr(sys, "argv", ["bitfront", "--version"])
    with pytest.raises(SystemExit):
        search.cli.app.main()
    assert calls == [True]


@pytest.mark.parametrize("module", ["bitfront", "search.sweeps.run", "quant_core.ptq.engine"])
def test_nobody_else_asks_for_it(module: str) -> None:
    """A notebook that imports bitfront keeps the allocator that it had."""
    code = f"import {module}, sys; print('quant_core.util.allocator' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
