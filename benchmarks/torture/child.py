"""Starting the recording process, killing it, and adding up faults."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.torture.record import NAME, faults

ROOT = Path(__file__).parents[2]


class Child:
    """A process that records the sweep in a folder; `said` grows by the numbers of the trials that it says are recorded.

    `last` is when it said so the last time.
    """

    def __init__(self, folder: Path, said: set[int], *arguments: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "benchmarks.torture.record", str(folder), *arguments]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._said, self.begun = said, threading.Event()
        self.errors, self.last = "", time.monotonic()
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self._said.add(int(line))
            self.last = time.monotonic()
            self.begun.set()
        self.begun.set()

    def _read_errors(self) -> None:
        self.errors = self.process.stderr.read() if self.process.stderr else ""

    def kill_after(self, seconds: float) -> int | None:
        """Kill it so long after its first trial; return its exit code where it had ended before."""
        self.begun.wait(600)
        time.sleep(seconds)
        code = self.process.poll()
        self.process.kill()
        self.wait()
        return code

    def wait(self, timeout_s: float = 600) -> int:
        """Return its exit code."""
        code = self.process.wait(timeout_s)
        for thread in self._threads:
            thread.join()
        return code


def kill_chain(folder: Path, kills: int, rng: random.Random, count: int = 60) -> tuple[int, dict[str, int]]:
    """Kill the writer of one sweep again and again until it ends, at most `kills` times; return how often, and the faults."""
    said: set[int] = set()
    total = {"lost": 0, "duplicated": 0, "untidy": 0}
    done = 0
    while done < kills:
        before = set(said)
        child = Child(folder, said, "--trials", str(count), "--seconds", "0.02")
        code = child.kill_after(rng.uniform(0.0, 1.2))
        if code is not None:
            total["untidy"] += code != 0
            break
        done += 1
        add(total, faults(f"sqlite:///{folder}/mlflow.db", count, before | said) | {"untidy": 0})  # it is tidied by the next one
    end = Child(folder, said, "--trials", str(count), "--seconds", "0")
    total["untidy"] += end.wait() != 0
    add(total, faults(f"sqlite:///{folder}/mlflow.db", count, set(range(count))))
    return done, total


def add(total: dict[str, int], more: Mapping[str, int]) -> None:
    """Add faults to a total."""
    for name, figure in more.items():
        total[name] += figure


__all__ = ["NAME", "Child", "add", "kill_chain"]
