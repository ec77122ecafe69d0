"""Starting the recording process, killing it, and adding up faults."""

import multiprocessing
import os
import random
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.torture.record import NAME, faults, main

ROOT = Path(__file__).parents[2]
_FORKS = multiprocessing.get_context("forkserver")  # a process that has imported everything once, and forks: an import takes seconds
_FORKS.set_forkserver_preload(["benchmarks.torture.record", "search.tracking.client", "mlflow.store.tracking.sqlalchemy_store"])


def _recorded(arguments: list[str], said: Connection, errors: Connection) -> None:
    """Be the process that records: its standard streams go to the two pipes."""
    for connection, number in ((said, 1), (errors, 2)):
        os.dup2(connection.fileno(), number)
        connection.close()
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv = ["record", *arguments]
    main()


class Child:
    """A process that records the sweep in a folder; `said` grows by the numbers of the trials that it says are recorded.

    `last` is when it said so the last time.
    """

    def __init__(self, folder: Path, said: set[int], *arguments: str) -> None:
        (out, out_here), (err, err_here) = _FORKS.Pipe(duplex=False), _FORKS.Pipe(duplex=False)
        self._out, self._err = out, err
        self.process = _FORKS.Process(target=_recorded, args=([str(folder), *arguments], out_here, err_here))
        self.process.start()
        out_here.close()
        err_here.close()
        self._said, self.begun = said, threading.Event()
        self.errors, self.last = "", time.monotonic()
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        with os.fdopen(os.dup(self._out.fileno())) as said:
            for line in said:
                self._said.add(int(line))
                self.last = time.monotonic()
                self.begun.set()
        self.begun.set()

    def _read_errors(self) -> None:
        with os.fdopen(os.dup(self._err.fileno())) as errors:
            self.errors = errors.read()

    def kill_after(self, seconds: float) -> int | None:
        """Kill it so long after its first trial; return its exit code where it had ended before."""
        self.begun.wait(600)
        time.sleep(seconds)
        code = self.process.exitcode
        self.process.kill()
        self.wait()
        return code

    def wait(self, timeout_s: float = 600) -> int:
        """Return its exit code."""
        self.process.join(timeout_s)
        code = self.process.exitcode
        if code is None:
            raise TimeoutError(f"the process that records has not ended in {timeout_s:g} s")
        for thread in self._threads:
            thread.join()
        self._out.close()
        self._err.close()
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
