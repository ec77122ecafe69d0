"""Ctrl-C: the first asks to stop after the running trial, the second ends at once. And the time that a sweep may take."""

import _thread
import math
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

from search.config.store import DEFAULT_URI
from search.tracking.names import redact


class StopSignal:
    """Context in which SIGINT and SIGTERM set a flag instead of raising; calling it tells whether to stop.

    Outside the main thread, where Python allows no handlers, signals stay as they are.

    Args:
        tell: is called at the first signal, in a thread of its own, to say what is waited for.
    """

    def __init__(self, tell: Callable[[], None] = lambda: None) -> None:
        self._stopping, self._tell = False, tell
        self._before: dict[signal.Signals, object] = {}

    def __call__(self) -> bool:
        """Tell whether a stop was asked for."""
        return self._stopping

    def __enter__(self) -> "StopSignal":
        main = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGINT, signal.SIGTERM) if main else ():
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._stopping:
            raise KeyboardInterrupt
        self._stopping = True
        _thread.start_new_thread(self._tell, ())  # the main thread may be in the middle of writing


class Timer:
    """Tells when a number of minutes is over; 0: never.

    Args:
        minutes: from now on.
        clock: seconds that only grow.
    """

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._end = clock, clock() + 60.0 * minutes if minutes else math.inf

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return self.left <= 0

    @property
    def left(self) -> float:
        """Seconds that are left, infinitely many without a limit; below 0 where the time is over."""
        return self._end - self._clock()


def resume_hint(name: str, uri: str) -> str:
    """Return the command that continues a sweep, as it is to be typed; for one that is not recorded, that nothing is kept."""
    if not name:
        return "nothing was recorded"
    where = "" if uri == DEFAULT_URI else f" --uri {redact(uri)}"
    return f"`bitfront resume {name}{where}` continues it"
