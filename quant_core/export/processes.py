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
    if size:
        return {name[1:]: values for name, values in numpy.load(io.BytesIO(_in.read(int(size))), allow_pickle=False).items()}
def write(arrays):
    data = io.BytesIO()
    numpy.savez(data, allow_pickle=False, **{"_" + name: values for name, values in arrays.items()})
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
        data = io.BytesIO()  # an array of any name: `file` is an argument of savez
        np.savez(data, allow_pickle=False, **{f"_{name}": values for name, values in arrays.items()})
        try:
            self._process.stdin.write(b"%d\n" % len(data.getbuffer()))
            self._process.stdin.write(data.getbuffer())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        size = self._process.stdout.readline()
        if not size:
            raise self._failure()
        answer = np.load(io.BytesIO(self._process.stdout.read(int(size))), allow_pickle=False)
        return {name[1:]: values for name, values in answer.items()}

    def _failure(self) -> BitfrontError:
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        onnxruntimes = [line.rpartition(" : ")[2] for line in lines if "[ONNXRuntimeError]" in line]
        said = onnxruntimes or [line for line in lines if "rror" in line] or lines or [f"exit code {code}"]
        return BitfrontError(f"{self._runtime} fails in a fresh process: {said[-1].rstrip('.')}. Nothing was written.")


def started(command: list[str], errors: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start a command that is sent bytes and sends bytes back; what it writes to standard error goes to a file."""
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)


@contextmanager
def fresh_process(script: str, *arguments: str, runtime: str) -> Iterator[FreshProcess]:
    """Start a process; it ends with the block.

    Args:
        script: Python text that calls `read() -> dict of arrays, or None at the end` and `write(dict of arrays)`.
        arguments: its `sys.argv[1:]`.
        runtime: its name in errors.
    """
    with tempfile.TemporaryFile() as errors:
        process = started([sys.executable, "-W", "ignore", "-c", _TALK + script, *arguments], errors)
        try:
            yield FreshProcess(process, runtime, errors)
        finally:
            process.kill()
            process.communicate()
