"""An exported file run in a fresh process that holds numpy and its runtime alone, and the latency of files side by side."""

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant_core.export.scripts import OPEN, RUN, RUNTIMES, TIME
from quant_core.export.tagging import tensor_leaves
from quant_core.util.errors import BitfrontError

REPEATS = 31
LAST_WORDS_S = 10.0
"""How long the messages of a process that was ended are waited for: one that it started may hold its pipe."""


class Replay:
    """A process that runs an exported file; made by `replayed`."""

    def __init__(self, process: "Process", names: Sequence[str]) -> None:
        self._process, self._names = process, names

    def __call__(self, inputs: Any) -> Tensor:
        """Return the outputs of one batch of model inputs.

        Raises:
            BitfrontError: the process failed.
        """
        self._process.send(dict(zip(self._names, [tensor.numpy() for tensor in tensor_leaves(inputs)], strict=True)))
        return torch.from_numpy(self._process.receive())


@dataclass(frozen=True)
class Latency:
    """Seconds of one example on one thread, of a quantized file and of float32, in turns.

    Attributes:
        quantized_s, float_s: medians.
        ratio: median of the ratios of neighbouring runs, quantized / float.
    """

    quantized_s: float
    float_s: float
    ratio: float

    @property
    def checks(self) -> dict[str, float | str]:
        """The figures under their names in a report."""
        figures: dict[str, float | str] = {
            "float32_latency_s": self.float_s,
            "latency_s": self.quantized_s,
            "latency_of_float32": self.ratio,
        }
        return figures | {"verdict": str(self)}

    def __str__(self) -> str:
        if self.ratio < 1:
            return f"{1 / self.ratio:.1f} x faster than float32 here"
        return f"float32 is faster here: {self.ratio:.1f} x"


class Process:
    """A fresh process of one runtime, which is sent arrays and sends arrays back."""

    def __init__(self, runtime: str, script: str, *arguments: str) -> None:
        command = [sys.executable, "-W", "ignore", "-c", OPEN + RUNTIMES[runtime] + script, *arguments]
        self._runtime = runtime
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def send(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Send arrays by name.

        Raises:
            BitfrontError: the process failed.
        """
        assert self._process.stdin is not None
        data = io.BytesIO()
        np.savez(data, allow_pickle=False, **arrays)
        try:
            self._process.stdin.write(b"%d\n" % len(data.getbuffer()))
            self._process.stdin.write(data.getbuffer())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def receive(self) -> NDArray[Any]:
        """Return the next array.

        Raises:
            BitfrontError: the process failed.
        """
        assert self._process.stdout is not None
        size = self._process.stdout.readline()
        if not size:
            raise self._failure()
        values: NDArray[Any] = np.load(io.BytesIO(self._process.stdout.read(int(size))), allow_pickle=False)
        return values

    def end(self) -> None:
        """End the process. Its pipes are closed, not read to their end, which another process may hold open."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):  # what was not sent yet
                if pipe is not None:
                    pipe.close()
        self._process.wait()

    def _failure(self) -> BitfrontError:
        """Return the error of a process that has ended, or of one that wrote no outputs."""
        self._process.kill()
        try:
            said = self._process.communicate(timeout=LAST_WORDS_S)[1]
        except subprocess.TimeoutExpired as expired:
            said = expired.stderr or b""
        lines = said.decode(errors="replace").strip().splitlines()
        named = [line for line in lines if "[ONNXRuntimeError]" in line] or lines or [f"exit code {self._process.returncode}"]
        return BitfrontError(f"{self._runtime} fails in a fresh process: {named[-1].rpartition(' : ')[2]}".rstrip("."))


@contextmanager
def replayed(model: Path, names: Sequence[str], *, fuse: bool = True, runtime: str = "onnxruntime") -> Iterator[Replay]:
    """Open an exported file in a fresh process; it ends with the block.

    Args:
        model: the file.
        names: of the graph's inputs in the order of the tensors of a batch.
        fuse: with onnxruntime's fusion of quantized operators, as by default.
        runtime: a key of `RUNTIMES`.
    """
    with _process(runtime, RUN, str(model), json.dumps({"fuse": fuse})) as process:
        yield Replay(process, names)


def latency(
    model: Path,
    reference: Path,
    inputs: Mapping[str, NDArray[Any]],
    *,
    fuse: bool = True,
    repeats: int = REPEATS,
    runtime: str = "onnxruntime",
    threads: int = 1,
) -> Latency:
    """Return the latency of `model` beside that of `reference`, both in one fresh process, in turns.

    Args:
        model, reference: files of the same inputs.
        inputs: of one call, by name.
        fuse: as `replayed`, for `model`.
        repeats: calls of each; the first fifth is left out.
        runtime: a key of `RUNTIMES`.
        threads: of the runtime.

    Raises:
        BitfrontError: the process failed.
    """
    files = [(model, {"fuse": fuse, "threads": threads}), (reference, {"threads": threads})]
    rows = timed(files, inputs, runtime, repeats=repeats)
    rows = rows[len(rows) // 5 :]
    quantized, plain = np.median(rows, axis=0)
    return Latency(float(quantized), float(plain), float(np.median(rows[:, 0] / rows[:, 1])))


def timed(
    files: Sequence[tuple[Path, Mapping[str, object]]], inputs: Mapping[str, NDArray[Any]], runtime: str, *, repeats: int, own: bool = False
) -> NDArray[Any]:
    """Return the seconds of one call of every file, [repeats, files], in turns within one fresh process.

    Args:
        files: of the same inputs, with the options of `opened`.
        inputs: of one call, by name.
        runtime: a key of `RUNTIMES`.
        repeats: rows.
        own: CPU time of the process in place of the clock's: that of a call on one thread, whatever else the machine does.

    Raises:
        BitfrontError: the process failed.
    """
    settings = {"files": [(str(path), options) for path, options in files], "repeats": repeats}
    settings["clock"] = "process_time" if own else "perf_counter"
    with _process(runtime, TIME, json.dumps(settings)) as process:
        process.send(inputs)
        return process.receive()


@contextmanager
def _process(runtime: str, script: str, *arguments: str) -> Iterator[Process]:
    process = Process(runtime, script, *arguments)
    try:
        yield process
    finally:
        process.end()
