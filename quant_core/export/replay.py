"""An exported file run in a fresh process that holds numpy and its runtime alone, and the latency of files side by side."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant_core.export.processes import FreshProcess, fresh_process
from quant_core.export.scripts import RUN, RUNTIMES, TIME
from quant_core.export.tagging import tensor_leaves

REPEATS = 31


class Replay:
    """A process that runs an exported file; made by `replayed`."""

    def __init__(self, process: FreshProcess, names: Sequence[str]) -> None:
        self._process, self._names = process, names

    def __call__(self, inputs: Any) -> Tensor:
        """Return the outputs of one batch of model inputs.

        Raises:
            BitfrontError: the process failed.
        """
        answer = self._process(dict(zip(self._names, [tensor.numpy() for tensor in tensor_leaves(inputs)], strict=True)))
        return torch.from_numpy(answer["output"])


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
def replayed(model: Path, names: Sequence[str], *, fuse: bool = True, runtime: str = "onnxruntime") -> Iterator[Replay]:
    """Open an exported file in a fresh process; it ends with the block.

    Args:
        model: the file.
        names: of the graph's inputs in the order of the tensors of a batch.
        fuse: with the runtime's fusion of quantized operators into integer kernels, as by default.
        runtime: a key of `RUNTIMES`.
    """
    with fresh_process(RUNTIMES[runtime] + RUN, str(model), json.dumps({"fuse": fuse}), runtime=runtime) as process:
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
    with fresh_process(RUNTIMES[runtime] + TIME, json.dumps(settings), runtime=runtime) as process:
        return process(inputs)["seconds"]
