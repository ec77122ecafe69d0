"""Keeping standard output clean for results, and standard error for what concerns the user."""

import contextlib
import ctypes
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOCK = threading.RLock()
"""Held while descriptor 1 is redirected: a second thread would save the redirected descriptor as the one to put back."""


@contextmanager
def quiet_library() -> Iterator[None]:
    """Keep warnings off the screen while a library is imported or loads: transformers imports torchao, which warns of every GPU library."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def quiet_stdout(descriptor: int = 2) -> Iterator[None]:
    """Send what compiled code prints on standard output to another open file, by default to standard error, so that results stand alone.

    Descriptor 1 belongs to the whole process: keep the block short. What C has buffered is written before the descriptor is put back,
    and what Python has buffered before and after, each to the file it was printed to.
    """
    with LOCK:
        _flush()
        try:
            kept = os.dup(1)
        except OSError:  # standard output is closed: nothing to keep clean
            yield
            return
        try:
            os.dup2(descriptor, 1)
            yield
        finally:
            _flush()
            os.dup2(kept, 1)
            os.close(kept)


def _flush() -> None:
    """Write what Python and C have buffered for standard output."""
    if sys.stdout is not None:
        with contextlib.suppress(ValueError):  # closed
            sys.stdout.flush()
    with contextlib.suppress(OSError, TypeError, AttributeError):  # a platform without a C library in the process
        ctypes.CDLL(None).fflush(None)
