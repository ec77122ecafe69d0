"""Keeping the pages of freed memory in this process, so that large activations do not fault them in again in every batch.

glibc gives every block above its mmap threshold back to the system when it is freed, and takes it again, page fault by page fault, for the
next batch. On a CNN at 224 x 224 that was 47 % of the processor time of a sweep. How much stays is bounded, see `quant_core.util.pages`.
"""

import ctypes
import sys

from quant_core.util.pages import blocks_from_heap, kept_from_now

_TRIM_THRESHOLD, _TOP_PAD = -1, -2  # malloc.h
PAD = 256 * 2**20
"""The heap grows by this much more than is asked for."""


def keep_pages() -> bool:
    """Ask glibc to keep freed memory in this process; tell whether it does. Elsewhere nothing is done.

    For bitfront's own processes, the command line and Ray's workers: never called for a user's process that imports bitfront.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    keeps = bool(blocks_from_heap() and mallopt(_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_TOP_PAD, PAD))
    if keeps:
        kept_from_now()
    return keeps
