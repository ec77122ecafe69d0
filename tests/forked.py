"""Processes forked from one that has imported what they need: a fresh process imports for seconds.

`tests/search/cli/test_readme.py`, `tests/quant_core/export/test_processes.py` and `test_replay.py` start fresh ones, as users do.
"""

import atexit
import contextlib
import io
import os
import runpy
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import IO, Any


@cache
def _context() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.forked_imports"])
    return context


class Forked:
    """What is used of `subprocess.Popen`, for a command `python -W ignore -c SCRIPT ARGUMENT ...` of bytes."""

    def __init__(self, command: list[str], errors: IO[bytes]) -> None:
        (read, sent), (answers, answered) = os.pipe(), os.pipe()
        theirs = [Connection(read, writable=False), Connection(answered, readable=False), Connection(os.dup(errors.fileno()))]
        self.stdin, self.stdout = os.fdopen(sent, "wb"), os.fdopen(answers, "rb")
        self._process = _context().Process(target=_script, args=(command[4], command[5:], theirs, dict(os.environ)), daemon=True)
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


class Started:
    """What is used of `subprocess.Popen(..., text=True)` with both outputs piped, for `bitfront ARGUMENT ...`,
    or `python -c SCRIPT ARGUMENT ...`.

    `cwd` and `env` are those of this process where they are not given.
    """

    def __init__(self, *arguments: str, script: str = "", cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        (said, say), (warned, warn) = os.pipe(), os.pipe()
        theirs = [Connection(os.open(os.devnull, os.O_RDONLY), writable=False), *(Connection(end, readable=False) for end in (say, warn))]
        self.stdout, self.stderr = os.fdopen(said), os.fdopen(warned)
        given = (script, arguments, theirs, dict(os.environ if env is None else env), str(cwd or Path.cwd()))
        self._process = _context().Process(target=_process, args=given)
        self._process.start()
        self.pid = self._process.pid
        for connection in theirs:
            connection.close()

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        assert self.pid
        os.kill(self.pid, number)

    def communicate(self, timeout: float = 480.0) -> tuple[str, str]:
        """Return both outputs once it has ended; one that has not after `timeout` seconds is killed: its exit code tells."""
        said: list[str] = []
        limit = threading.Timer(timeout, self._process.kill)
        limit.start()
        with self.stdout, self.stderr:
            reader = threading.Thread(target=lambda: said.append(self.stdout.read()))
            reader.start()
            warned = self.stderr.read()
            reader.join()
        limit.cancel()
        self.wait()
        return said[0], warned

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *_error: object) -> None:
        self.stdout.close()
        self.stderr.close()
        self._process.join()


def ran(
    *arguments: str, script: str = "", cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Return how a process ended, and what it said."""
    with Started(*arguments, script=script, cwd=cwd, env=env) as process:
        said, warned = process.communicate()
        return subprocess.CompletedProcess(arguments, process.wait(), said, warned)


def _connect(pipes: list["Connection[Any, Any]"], environment: Mapping[str, str]) -> None:
    for place, pipe in enumerate(pipes):
        os.dup2(pipe.fileno(), place)
        pipe.close()
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.stdout = io.TextIOWrapper(os.fdopen(0, "rb")), io.TextIOWrapper(os.fdopen(1, "wb"))
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb"), write_through=True)


def _script(script: str, arguments: list[str], pipes: list["Connection[Any, Any]"], environment: Mapping[str, str]) -> None:
    _connect(pipes, environment)
    sys.argv = ["-c", *arguments]
    warnings.simplefilter("ignore")
    exec(script, {"__name__": "__main__"})


def _process(
    script: str, arguments: tuple[str, ...], pipes: list["Connection[Any, Any]"], environment: Mapping[str, str], folder: str
) -> None:
    _connect(pipes, environment)
    os.chdir(folder)
    sys.path[:0] = [folder, *environment.get("PYTHONPATH", "").split(os.pathsep)]
    sys.argv = ["-c" if script else "bitfront", *arguments]
    try:
        if script:
            exec(script, {"__name__": "__main__"})
        else:
            runpy.run_module("search", run_name="__main__", alter_sys=True)
    finally:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        atexit._run_exitfuncs()
