"""An ONNX file run in a fresh process that holds numpy and onnxruntime alone, and its latency beside another file's."""

import io
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant_core.export.tagging import tensor_leaves
from quant_core.util.errors import BitfrontError

REPEATS = 31
_OPEN = r"""
import io, sys, time, numpy, onnxruntime
def opened(path, fuse):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not fuse:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
def read():
    size = sys.stdin.buffer.readline()
    return dict(numpy.load(io.BytesIO(sys.stdin.buffer.read(int(size))), allow_pickle=False)) if size else None
def write(values):
    data = io.BytesIO()
    numpy.save(data, values, allow_pickle=False)
    sys.stdout.buffer.write(b"%d\n" % len(data.getvalue()) + data.getvalue())
    sys.stdout.buffer.flush()
"""
_RUN = """
session = opened(sys.argv[1], sys.argv[2] == "1")
taken = {value.name for value in session.get_inputs()}
while (given := read()) is not None:
    write(numpy.asarray(session.run(None, {name: values for name, values in given.items() if name in taken})[0]))
"""
_TIME = """
sessions = [opened(sys.argv[1], sys.argv[2] == "1"), opened(sys.argv[3], True)]
given = read()
feeds = [{value.name: given[value.name] for value in session.get_inputs()} for session in sessions]
rows = numpy.zeros((int(sys.argv[4]), 2))
for row in rows:
    for i, session in enumerate(sessions):
        begun = time.perf_counter()
        session.run(None, feeds[i])
        row[i] = time.perf_counter() - begun
write(rows[len(rows) // 5:])
"""


class Replay:
    """A process that runs an ONNX file; made by `replayed`."""

    def __init__(self, process: "subprocess.Popen[bytes]", names: Sequence[str]) -> None:
        self._process, self._names = process, names

    def __call__(self, inputs: Any) -> Tensor:
        """Return the outputs of one batch of model inputs.

        Raises:
            BitfrontError: the process failed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        _send(self._process.stdin, dict(zip(self._names, [tensor.numpy() for tensor in tensor_leaves(inputs)], strict=True)), self._process)
        return torch.from_numpy(_receive(self._process))


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


@contextmanager
def replayed(model: Path, names: Sequence[str], *, fuse: bool = True) -> Iterator[Replay]:
    """Open an ONNX file in a fresh process; it ends with the block.

    Args:
        model: the file.
        names: of the graph's inputs in the order of the tensors of a batch.
        fuse: with onnxruntime's fusion of quantized operators, as by default.
    """
    with _process(_RUN, str(model), str(int(fuse))) as process:
        yield Replay(process, names)


def latency(model: Path, reference: Path, inputs: Mapping[str, NDArray[Any]], *, fuse: bool = True, repeats: int = REPEATS) -> Latency:
    """Return the latency of `model` beside that of `reference`, both in one fresh process, in turns.

    Args:
        model, reference: ONNX files of the same inputs.
        inputs: of one call, by name.
        fuse: as `replayed`, for `model`.
        repeats: calls of each; the first fifth is left out.

    Raises:
        BitfrontError: the process failed.
    """
    with _process(_TIME, str(model), str(int(fuse)), str(reference), str(repeats)) as process:
        assert process.stdin is not None
        _send(process.stdin, inputs, process)
        rows = _receive(process)
    quantized, plain = np.median(rows, axis=0)
    return Latency(float(quantized), float(plain), float(np.median(rows[:, 0] / rows[:, 1])))


@contextmanager
def _process(script: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-W", "ignore", "-c", _OPEN + script, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _send(pipe: IO[bytes], arrays: Mapping[str, NDArray[Any]], process: "subprocess.Popen[bytes]") -> None:
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, **arrays)
    try:
        pipe.write(b"%d\n" % len(data.getbuffer()))
        pipe.write(data.getbuffer())
        pipe.flush()
    except BrokenPipeError:
        raise _failure(process) from None


def _receive(process: "subprocess.Popen[bytes]") -> NDArray[Any]:
    assert process.stdout is not None
    size = process.stdout.readline()
    if not size:
        raise _failure(process)
    values: NDArray[Any] = np.load(io.BytesIO(process.stdout.read(int(size))), allow_pickle=False)
    return values


def _failure(process: "subprocess.Popen[bytes]") -> BitfrontError:
    """Return the error of a process that has ended, or of one that wrote no outputs."""
    process.kill()
    lines = process.communicate()[1].decode(errors="replace").strip().splitlines()
    named = [line for line in lines if "[ONNXRuntimeError]" in line] or lines or [f"exit code {process.returncode}"]
    return BitfrontError(f"onnxruntime fails in a fresh process: {named[-1].rpartition(' : ')[2]}".rstrip("."))
