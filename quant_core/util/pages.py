"""The free pages that this process keeps, where it was asked to (`quant_core.util.allocator`): bounded, and given back beyond.

Blocks of many sizes leave gaps between them. With all of them kept, a sweep of a CNN at 224 x 224 held three times what was in use.
"""

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_MMAP_THRESHOLD = -3  # malloc.h
LARGEST_BLOCK = 2**30
"""Blocks up to this size come from the heap."""
_LASTING = 2**18
"""Blocks from this size on come from the system while they are to last."""
KEPT = 256 * 2**20
"""Free bytes that stay with the process whatever happens."""
FAULTS_S = 0.25e-9
"""Processor time that a byte costs when its page is taken from the system again: 1 us for a page of 4 KiB."""
SHARE = 0.02
"""Of the processor time, at most, goes into taking pages again."""
_STEP = 32 * 2**20  # of growth, until which nothing is looked up
_STATM = Path("/proc/self/statm")
_BEFORE = ("arena", "ordblks", "smblks", "hblks")


class _Usage(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in (*_BEFORE, "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"))


@dataclass
class _Pages:
    """What is known of this process's memory.

    Attributes:
        beside: resident bytes that are not malloc's, code and libraries, at the last look; -1 where pages are not kept.
        seen: resident bytes when they were last looked at.
        next_return: processor time of this process, in seconds, before which no pages are returned.
    """

    beside: int = -1
    seen: int = 0
    next_return: float = 0.0

    def returned(self, free: int = 0) -> None:
        """Return `free` bytes of pages, and look."""
        ctypes.CDLL(None).malloc_trim(0)
        self.seen, self.next_return = resident_bytes(), time.process_time() + free * FAULTS_S / SHARE
        self.beside = max(0, self.seen - bytes_in_use())


_PAGES = _Pages()


def kept_from_now() -> None:
    """Look after the pages of this process from now on, where the C library tells what is in use (glibc 2.33)."""
    if hasattr(ctypes.CDLL(None), "mallinfo2"):
        _PAGES.returned()


@contextmanager
def lasting() -> Iterator[None]:
    """Take blocks from the system within the block, not from the heap: those that stay leave gaps there between what comes and goes.

    Nothing is done unless this process keeps pages.
    """
    if _PAGES.beside < 0:
        yield
        return
    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LASTING)
    try:
        yield
    finally:
        blocks_from_heap()


def blocks_from_heap() -> bool:
    """Let large blocks come from the heap again, up to the size that the C library allows; tell whether it does."""
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST_BLOCK) or mallopt(_MMAP_THRESHOLD, 32 * 2**20))


def give_back() -> bool:
    """Return free pages to the system where many gathered; tell whether it was done. Nothing is, unless this process keeps pages.

    What the next pass needs it has to take again, page by page. So pages are returned only when the work since the last return has taken
    so long that this costs `SHARE` of the time.
    """
    if _PAGES.beside < 0:
        return False
    resident = resident_bytes()
    if resident < _PAGES.seen + _STEP:
        return False
    free = resident - bytes_in_use() - _PAGES.beside
    if free <= KEPT:
        _PAGES.seen = resident
        return False
    if time.process_time() < _PAGES.next_return:
        return False
    _PAGES.returned(free)
    return True


def resident_bytes() -> int:
    """Return the resident size of this process."""
    return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def bytes_in_use() -> int:
    """Return the bytes that malloc has given out."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Usage
    usage = mallinfo2()
    return int(usage.uordblks + usage.hblkhd)
