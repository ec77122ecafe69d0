"""Processes of exported files, forked from one that has imported the runtimes: what every fresh process imports takes half a second.

`tests/quant_core/export/test_processes.py` and `test_replay.py` start fresh ones, as users do.
"""

import io
import os
import sys
import warnings
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import IO, Any


@cache
def _context() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.forked_imports"])
    return context


class Forked:
    """What is used of `subprocess.Popen`, for a command `python -W ignore -c SCRIPT ARGUMENT ...`."""

    def __init__(self, command: list[str], errors: IO[bytes]) -> None:
        (read, sent), (answers, answered) = os.pipe(), os.pipe()
        theirs = [Connection(read, writable=False), Connection(answered, readable=False), Connection(os.dup(errors.fileno()))]
        self.stdin, self.stdout = os.fdopen(sent, "wb"), os.fdopen(answers, "rb")
        self._process = _context().Process(target=_run, args=(command[4], command[5:], theirs, dict(os.environ)), daemon=True)
        self._process.start()
        for connection in theirs:
            connection.close()

    def wait(self) -> int | None:
        """Return the exit code."""
        self._process.join()
        return self._process.exitcode

    def kill(self) -> None:
        """End the process."""
        self._process.kill()

    def communicate(self) -> None:
        """Close the pipes of a process that ends."""
        self.stdin.close()
        self.stdout.close()
        self._process.join()


def _run(script: str, arguments: list[str], pipes: list["Connection[Any, Any]"], environment: dict[str, str]) -> None:
    for place, pipe in enumerate(pipes):
        os.dup2(pipe.fileno(), place)
        pipe.close()
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.stdin, sys.stdout = ["-c", *arguments], io.TextIOWrapper(os.fdopen(0, "rb")), io.TextIOWrapper(os.fdopen(1, "wb"))
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb"), write_through=True)
    warnings.simplefilter("ignore")
    exec(script, {"__name__": "__main__"})
