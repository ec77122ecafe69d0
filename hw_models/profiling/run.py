"""Measure layers on this machine: every distinct shape in every mode that onnxruntime or our 1-bit kernel can run it in."""

import statistics
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from hw_models.measurements import Measurement, Mode, shape_key, shape_only
from hw_models.profiling.onnx import Runnable, legal_modes, runnable
from quant_core.spec.layer import Layer

_LEAST_S = 2e-3
_MOST_S = 2.0
_FEWEST = 3


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure.

    Attributes:
        batch: examples of one call.
        threads: threads of onnxruntime; the 1-bit kernel runs on one.
        repeats: how often a call is timed; fewer where that would take longer than two seconds, but at least three times.
    """

    batch: int = 1
    threads: int = 1
    repeats: int = 10


def plan(layers: Iterable[Layer], done: Collection[Measurement], threads: int) -> list[tuple[Layer, Mode]]:
    """Return the measurements left to take: the distinct shapes of layers that are called, in every legal mode."""
    measured = {(shape_key(row.layer), row.mode) for row in done}
    shapes = {shape_key(layer): shape_only(layer) for layer in layers if layer.calls}
    todo = [(layer, mode) for layer in shapes.values() for mode in legal_modes(layer) if threads == 1 or mode.weight != "binary"]
    return [(layer, mode) for layer, mode in todo if (shape_key(layer), mode) not in measured]


def measure(todo: Iterable[tuple[Layer, Mode]], settings: Settings) -> Iterator[Measurement | None]:
    """Yield one measurement per entry of `todo`, or None where this onnxruntime has no kernel for it."""
    for layer, mode in todo:
        call = runnable(layer, mode, settings.batch, settings.threads)
        if call is None:
            yield None
            continue
        times = sorted(seconds / settings.threads for seconds in timed(call, settings.repeats))
        least, median = max(times[0], 1e-9), statistics.median(times)
        yield Measurement(layer, mode, float(f"{least:.6g}"), float(f"{median / least - 1:.3g}"), len(times))


def timed(call: Runnable, repeats: int) -> list[float]:
    """Return the process CPU time in seconds of one call, measured `repeats` times; short calls are timed in runs of 2 ms or more."""
    call()
    first = _cpu_seconds(call, 1)
    inner = max(1, round(_LEAST_S / max(first, 1e-7)))
    fit = int(_MOST_S / max(first * inner, 1e-9))
    return [_cpu_seconds(call, inner) for _ in range(max(_FEWEST, min(repeats, fit)))]


def _cpu_seconds(call: Runnable, runs: int) -> float:
    start = time.process_time()
    for _ in range(runs):
        call()
    return (time.process_time() - start) / runs
