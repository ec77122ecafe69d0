"""What a running sweep shows: one live line on a terminal, plain lines elsewhere, JSON lines with `--log json`."""

import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console
from rich.live import Live

from search.sweeps.phases import LogMode, clock_text
from search.sweeps.sweep import Sweep


class Progress:
    """Shows the state of a sweep after every trial.

    Args:
        sweep: what to show.
        workers: how many there are.
        mode: "auto" (live on a terminal, plain otherwise), "plain", "json" or "none".
        console: where to; standard error by default, so that standard output holds results only.
        every: seconds between two plain lines.
        name: of the sweep, for JSON lines.
        clock: seconds that only grow: a clock of the wall jumps.
    """

    def __init__(
        self,
        sweep: Sweep,
        workers: int = 1,
        mode: LogMode = "auto",
        console: Console | None = None,
        every: float = 5.0,
        name: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sweep, self._workers, self._name = sweep, workers, name
        self._console = console or Console(stderr=True)
        self._mode = "live" if mode == "auto" and self._console.is_terminal else "plain" if mode == "auto" else mode
        self._live = Live(console=self._console, auto_refresh=False, transient=True) if self._mode == "live" else None
        self._every, self._clock = every, clock
        self._start = self._shown = clock()
        self._skipped = sweep.told

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        self._start = self._clock()
        self._skipped = self._sweep.told
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def update(self) -> None:
        """Show the state as it now is."""
        now = self._clock()
        if self._live:
            self._live.update(self._text(now), refresh=True)
        elif self._mode == "json":
            self._console.print(
                json.dumps({"sweep": self._name, "trial": next(reversed(self._sweep.records), None)} | dict(self.state(now))),
                soft_wrap=True,
                highlight=False,
                markup=False,
            )
        elif self._mode != "none" and (now - self._shown >= self._every or self._sweep.told >= self._sweep.planned):
            self._shown = now
            self._console.print(self._text(now), soft_wrap=True, highlight=False, markup=False)

    def state(self, now: float) -> Mapping[str, float | int | None]:
        """Return the figures shown: counts, workers, best accuracy under the budget, front, trials per second, seconds left."""
        sweep, seconds = self._sweep, max(now - self._start, 1e-9)
        rate = (sweep.told - self._skipped) / seconds
        measured = [sweep.records[number].result.metrics for number in sweep.archive.numbers]
        return {
            "done": sweep.told,
            "trials": sweep.planned,
            "failed": sweep.failed,
            "stopped": sweep.stopped,
            "repeated": sweep.repeated,
            "retried": sweep.retried,
            "running": sweep.open_trials,
            "busy": sweep.busy,
            "workers": self._workers,
            "best_accuracy": max((metrics["accuracy"] for metrics in measured if "accuracy" in metrics), default=None),
            "best_error": min((metrics["error"] for metrics in measured if "error" in metrics), default=None),
            "front": len(sweep.archive.numbers),
            "hypervolume": sweep.archive.hypervolume,
            "per_second": rate,
            "seconds_left": (sweep.planned - sweep.told) / rate if rate else None,
        }

    def _text(self, now: float) -> str:
        state = self.state(now)
        best = "none yet"
        if state["best_accuracy"] is not None:
            best = f"{state['best_accuracy']:.2%}"
        elif state["best_error"] is not None:
            best = f"error {state['best_error']:.4g}"
        left = f"{clock_text(state['seconds_left'])} left" if state["seconds_left"] is not None else "..."
        counts = f"trial {state['done']}/{state['trials']} | failed {state['failed']} | repeated {state['repeated']}"
        counts += f" | stopped early {state['stopped']}" if state["stopped"] else ""
        work = f"retried {state['retried']} | workers busy {state['busy']}/{state['workers']}"
        front = f"best under the budget {best} | front {state['front']} | hypervolume {state['hypervolume']:.4f}"
        return f"{counts} | {work} | {front} | {state['per_second']:.1f}/s | {left}"
