"""The free pages that this process keeps, where it was asked to (`quant_core.util.allocator`): bounded, and given back beyond.

Blocks of many sizes leave gaps between them. With all of them kept, a sweep of a CNN at 224 x 224 held three times what was in use.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_MMAP_THRESHOLD = -3  # malloc.h
LARGEST_BLOCK = 2**30
"""Blocks up to this size come from the heap."""
_LASTING = 2**18
"""Blocks from this size on come from the system while they are to last."""
KEPT = 128 * 2**20
"""Free bytes that stay with the process whatever happens."""
SOON = 16
"""Passes after which free pages that gathered again are not called needed."""
_STEP = 32 * 2**20  # of growth, until which nothing is looked up
_STATM = Path("/proc/self/statm")
_BEFORE = ("arena", "ordblks", "smblks", "hblks")


class _Usage(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in (*_BEFORE, "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"))


@dataclass
class _Pages:
    """What is known of this process's memory, in bytes.

    Attributes:
        kept: free bytes that may stay.
        least: of them; what gathered again soon after it was returned is needed, and is not returned a second time.
        beside: resident bytes that are not malloc's, code and libraries, at the last look; -1 where pages are not kept.
        seen: resident bytes when they were last looked at.
        passes: since free pages were returned.
    """

    kept: int = KEPT
    least: int = KEPT
    beside: int = -1
    seen: int = 0
    passes: int = 0

    def returned(self) -> None:
        """Return free pages, and look."""
        ctypes.CDLL(None).malloc_trim(0)
        self.seen = resident_bytes()
        self.kept, self.beside, self.passes = self.least, max(0, self.seen - bytes_in_use()), 0


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

    Those that one pass left are what the next one needs: so many are kept until pages are returned again. Work whose passes differ would
    return them over and over: what is free soon after a return is kept from then on.
    """
    if _PAGES.beside < 0:
        return False
    resident, first = resident_bytes(), _PAGES.passes == 0
    _PAGES.passes += 1
    if resident < _PAGES.seen + _STEP and not first:
        return False
    _PAGES.seen, free = resident, resident - bytes_in_use() - _PAGES.beside
    if first:
        _PAGES.kept = max(_PAGES.least, free + free // 4)
    if free <= _PAGES.kept:
        return False
    if _PAGES.passes <= SOON:
        _PAGES.least = free
    _PAGES.returned()
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
