"""Keeping standard output clean for results."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_stdout(descriptor: int = 2) -> Iterator[None]:
    """Send what compiled code prints on standard output to another open file, by default to standard error, so that results stand alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(descriptor, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
