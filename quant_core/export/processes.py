"""A fresh process that runs an exported file: arrays go in, arrays come out. It holds nothing of bitfront."""

import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from quant_core.util.errors import BitfrontError

_TALK = r"""
import io, os, sys, numpy
_in, _out = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)  # whatever a runtime prints goes to standard error
def read():
    size = _in.readline()
    return dict(numpy.load(io.BytesIO(_in.read(int(size))), allow_pickle=False)) if size else None
def write(arrays):
    data = io.BytesIO()
    numpy.savez(data, allow_pickle=False, **arrays)
    _out.write(b"%d\n" % len(data.getbuffer()) + data.getvalue())
    _out.flush()
"""


class FreshProcess:
    """A process that answers arrays by arrays; made by `fresh_process`."""

    def __init__(self, process: "subprocess.Popen[bytes]", runtime: str, errors: IO[bytes]) -> None:
        self._process, self._runtime, self._errors = process, runtime, errors

    def __call__(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the answer to one message.

        Raises:
            BitfrontError: the process failed; the message has the last line that it wrote.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        data = io.BytesIO()
        np.savez(data, allow_pickle=False, **arrays)
        try:
            self._process.stdin.write(b"%d\n" % len(data.getbuffer()) + data.getvalue())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        size = self._process.stdout.readline()
        if not size:
            raise self._failure()
        return dict(np.load(io.BytesIO(self._process.stdout.read(int(size))), allow_pickle=False))

    def _failure(self) -> BitfrontError:
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        said = [line for line in lines if "rror" in line]
        last = (said or lines or [f"exit code {code}"])[-1].strip().rstrip(".")
        return BitfrontError(f"{self._runtime} fails in a fresh process: {last}. Nothing was written.")


@contextmanager
def fresh_process(script: str, *arguments: str, runtime: str) -> Iterator[FreshProcess]:
    """Start a process; it ends with the block.

    Args:
        script: Python text that calls `read() -> dict of arrays, or None at the end` and `write(dict of arrays)`.
        arguments: its `sys.argv[1:]`.
        runtime: its name in errors.
    """
    with tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-W", "ignore", "-c", _TALK + script, *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        try:
            yield FreshProcess(process, runtime, errors)
        finally:
            process.kill()
            process.communicate()
