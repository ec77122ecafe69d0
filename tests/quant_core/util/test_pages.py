"""Free pages are kept up to what a pass needs, and given back beyond: in processes of their own, where pages are kept."""

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from quant_core.util import pages

LEAVE_GAPS = """
import numpy as np
from quant_core.util import pages
from quant_core.util.allocator import keep_pages

MIB = 2**20
assert keep_pages()


def walls(count):
    blocks, between = [], []
    for _ in range(count):
        blocks.append(np.ones(8 * MIB, dtype=np.uint8))
        between.append(np.ones(512, dtype=np.uint8))
    return between


pages.give_back()
held = walls(8)  # 64 MiB of gaps: fewer than are kept
first = pages.give_back()
held.append(walls(64))  # 512 MiB, which no pass left
before = pages.resident_bytes()
print(first, pages.give_back(), (before - pages.resident_bytes()) // MIB > 400)
pages._PAGES.next_return = 0.0
need = np.ones(240 * MIB, dtype=np.uint8)
del need
one = pages.give_back()  # what one pass left is what the next one needs
pages._PAGES.next_return = 0.0
need = np.ones(240 * MIB, dtype=np.uint8)
del need
print(one, pages.give_back())
"""
GLIBC, VERSION = platform.libc_ver()


@pytest.mark.skipif(GLIBC != "glibc" or tuple(map(int, VERSION.split("."))) < (2, 33), reason="glibc 2.33 or later says what is in use")
def test_gaps_are_given_back_and_what_one_pass_needs_is_kept() -> None:
    run = subprocess.run([sys.executable, "-c", LEAVE_GAPS], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["False True True", "False False"]


def test_a_process_that_keeps_no_pages_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages._PAGES, "beside", -1)
    monkeypatch.setattr(pages, "resident_bytes", lambda: pytest.fail("nothing is looked up"))
    assert not pages.give_back()


def test_taking_pages_again_costs_a_small_share_of_the_time_whatever_the_passes_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass of a second leaves more than is kept: what was returned has to be taken again."""
    state, clock, taken, free = pages._Pages(beside=0), 0.0, 0.0, 0

    def trim(_pad: int) -> None:
        nonlocal free
        free = 0

    monkeypatch.setattr(pages, "_PAGES", state)
    monkeypatch.setattr(pages, "resident_bytes", lambda: free)
    monkeypatch.setattr(pages, "bytes_in_use", lambda: 0)
    monkeypatch.setattr(pages.ctypes, "CDLL", lambda _name: SimpleNamespace(malloc_trim=trim))
    monkeypatch.setattr(pages.time, "process_time", lambda: clock)
    returns = 0
    for _ in range(200):
        left = 2 * pages.KEPT
        cost = (left - free) * pages.FAULTS_S
        taken, clock, free = taken + cost, clock + 1.0 + cost, left
        returns += pages.give_back()
    assert returns > 5
    assert taken <= 1.1 * pages.SHARE * clock
