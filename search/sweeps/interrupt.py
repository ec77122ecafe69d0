"""Ctrl-C: the first asks to stop after the running trial, the second ends at once."""

import signal
import threading
from types import FrameType, TracebackType


class StopSignal:
    """Context in which SIGINT and SIGTERM set a flag instead of raising; calling it tells whether to stop.

    Outside the main thread, where Python allows no handlers, signals stay as they are.
    """

    def __init__(self) -> None:
        self._stopping = False
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
