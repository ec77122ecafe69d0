"""Changes of the process that are undone afterwards: environment variables and levels of loggers."""

import gc
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables within the block, where they are not set already."""
    missing = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


@contextmanager
def log_levels(levels: Mapping[str, int]) -> Iterator[None]:
    """Set the levels of loggers within the block."""
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def no_collector() -> Iterator[None]:
    """Keep Python's garbage collector from running in any thread within the block; it passes over all objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Shared:
    """A change of the process that several holders need at overlapping times: the first makes it, the last undoes it.

    Args:
        change: returns a context in which the process is changed.
    """

    def __init__(self, change: Callable[[], AbstractContextManager[None]]) -> None:
        self._change, self._lock, self._holders, self._stack = change, threading.Lock(), 0, ExitStack()

    def hold(self) -> None:
        """Make the change, unless another holder has made it."""
        with self._lock:
            if not self._holders:
                self._stack.enter_context(self._change())
            self._holders += 1

    def release(self) -> None:
        """Undo the change, unless another holder needs it."""
        with self._lock:
            self._holders -= 1
            if not self._holders:
                self._stack.close()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the change within the block."""
        self.hold()
        try:
            yield
        finally:
            self.release()
