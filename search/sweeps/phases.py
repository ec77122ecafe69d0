"""What a run does outside of its trials, from the first second: one line per phase, with how far it is and the time left."""

import json
import time
from collections.abc import Callable
from typing import Literal

from rich.console import Console

LogMode = Literal["auto", "plain", "json", "none"]
Report = Callable[[str, int, int], None]
"""(phase, steps done, steps in all): called at the begin of a phase with 0 steps done, and after every step; 0 in all: not known."""


def silent(_phase: str, _done: int, _total: int) -> None:
    """Report nothing."""


class Phases:
    """Prints the phases of a run to standard error; an instance is a `Report`.

    Attributes:
        sweep: its name, for JSON lines; "" before it has one.

    Args:
        mode: "auto" and "plain" (lines), "json" (JSON lines) or "none".
        console: where to.
        every: seconds between two lines of one phase.
        clock: seconds that only grow.
    """

    def __init__(
        self, mode: LogMode = "auto", console: Console | None = None, every: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console or Console(stderr=True)
        self.mode, self._every, self._clock = mode, every, clock
        self._phase, self._begun, self._shown = "", 0.0, 0.0
        self.sweep = ""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Show a phase when it begins and at its end, and in between every so many seconds."""
        now = self._clock()
        if self.mode == "none":
            return
        if phase != self._phase:
            self._phase, self._begun = phase, now
        elif now - self._shown < self._every and (done < total or now - self._begun < self._every):
            return
        self._shown = now
        left = (now - self._begun) * (total - done) / done if done and total else None
        if self.mode == "json":
            text = json.dumps({"sweep": self.sweep, "phase": phase, "done": done, "total": total, "seconds_left": left})
        else:
            text = phase + (f": {done} of {total}" if total else "") + (f", {clock_text(left)} left" if left else "")
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def stopping(self, running: int, hint: str) -> None:
        """Name the trials that a first Ctrl-C waits for, and say how the sweep goes on."""
        trials = "the running trial" if running <= 1 else f"{running} running trials"
        self._note(f"stopping: waiting for the end of {trials}; Ctrl-C again ends at once. {hint[0].upper()}{hint[1:]}.")

    def interrupted(self, hint: str) -> None:
        """Say in which phase a run was ended, and how the sweep goes on."""
        self._note(f"interrupted in phase {self._phase!r}: {hint}.")

    def _note(self, text: str) -> None:
        if self.mode != "none":
            self.console.print(
                json.dumps({"sweep": self.sweep, "note": text}) if self.mode == "json" else text,
                soft_wrap=True,
                highlight=False,
                markup=False,
            )


def clock_text(seconds: float) -> str:
    """Return a duration as h:mm:ss.

    >>> clock_text(3725.4)
    '1:02:05'
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
