"""Free pages are kept up to what a pass needs, and given back beyond: in processes of their own, where pages are kept."""

import platform
import subprocess
import sys

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
need = np.ones(300 * MIB, dtype=np.uint8)
del need
one = pages.give_back()  # what one pass left is what the next one needs
need = np.ones(300 * MIB, dtype=np.uint8)
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


def test_passes_that_need_more_and_less_in_turns_return_pages_a_few_times_and_not_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small pass follows every return, and large ones follow it: what it left is not what they need."""
    state, returns = pages._Pages(beside=0, seen=0), 0

    def resident() -> int:
        return free

    def returned(self: pages._Pages) -> None:
        nonlocal returns, free
        returns, free = returns + 1, 0
        self.kept, self.seen, self.passes = self.least, 0, 0

    monkeypatch.setattr(pages, "_PAGES", state)
    monkeypatch.setattr(pages, "resident_bytes", resident)
    monkeypatch.setattr(pages, "bytes_in_use", lambda: 0)
    monkeypatch.setattr(pages._Pages, "returned", returned)
    free = 0
    for step in range(400):
        pages.give_back()
        free = max(free, (100 + 900 * (step % 4 > 0)) * 2**20)
    assert 1 <= returns <= 3
