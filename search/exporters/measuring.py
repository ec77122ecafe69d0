"""`bitfront measure`: the time of picked policies beside the float network's, in a real runtime on this machine."""

import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from hw_models.profiling.host import processor
from quant_core.export.replay import timed
from quant_core.export.requirements import IN_FLOAT
from quant_core.util.errors import BitfrontError
from search.exporters import Bundle
from search.exporters.profiling import enough
from search.exporters.runtimes import Runtime, example_arrays
from search.records.timing import verdict


@dataclass(frozen=True)
class Timing:
    """The time of one example under a policy, and in float32, in turns in one process of a runtime.

    Attributes:
        runtime, version, cpu, threads, date: where and when.
        latency_s, float32_latency_s: least of the repeats: on a shared machine the others measure its load. On one thread it is the CPU
            time of the process.
        median_s, float32_median_s: of the same repeats.
        ratio: median of the ratios of neighbouring calls, quantized / float32: a busy machine lengthens both.
        repeats: calls of each.
        integer_layers: layers that the runtime computes by integers or from packed weights, of all, as "49 of 50".
    """

    runtime: str
    version: str
    cpu: str
    threads: int
    date: str
    latency_s: float
    float32_latency_s: float
    median_s: float
    float32_median_s: float
    ratio: float
    repeats: int
    integer_layers: str

    @property
    def verdict(self) -> str:
        """Whether the policy pays, in words."""
        return verdict(self.ratio)

    @property
    def key(self) -> str:
        """What tells this timing from others of a policy: another measurement of the same key takes its place."""
        return f"{self.runtime}.{self.threads}"

    def to_json(self) -> dict[str, float | str]:
        """Return the plain form, with the verdict."""
        return asdict(self) | {"verdict": self.verdict}


def measure(bundle: Bundle, runtime: Runtime, threads: int, repeats: int) -> Timing:
    """Write the policy and the float network for a runtime, and time them in turns.

    Raises:
        InputError: the runtime's files cannot hold the policy.
        BitfrontError: the runtime does not run them.
    """
    arrays = example_arrays(bundle.network.example)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = runtime.write(bundle.network, Path(folder))
        except BitfrontError as error:
            raise type(error)(f"policy {bundle.policy.id} in {runtime.name}: {_advised(str(error), runtime.name)}") from error
        reference = runtime.write_float(bundle.task.model, bundle.network.example, Path(folder))
        files = [(path, {"threads": threads}), (reference, {"threads": threads})]
        first = float(timed(files, arrays, runtime.name, repeats=3, own=threads == 1).min(axis=0).sum())
        rows = timed(files, arrays, runtime.name, repeats=enough(repeats, first), own=threads == 1)
        run_by = runtime.kernels(path, [layer.name for layer in bundle.layers if layer.calls])
    least, median = rows.min(axis=0), np.median(rows, axis=0)
    counts = [sum(pair) for pair in zip(run_by.convolutions, run_by.linears, strict=True)]
    return Timing(
        runtime.name,
        runtime.version,
        processor(),
        threads,
        datetime.now(UTC).date().isoformat(),
        float(least[0]),
        float(least[1]),
        float(median[0]),
        float(median[1]),
        float(np.median(rows[:, 0] / rows[:, 1])),
        len(rows),
        f"{counts[0]} of {counts[1]}",
    )


def _advised(fault: str, runtime: str) -> str:
    """Return a fault of an export with what can be done instead of it here, where files hold the codes of all weights."""
    form = {"onnxruntime": "onnx"}.get(runtime, runtime)
    export = f"`bitfront export SWEEP --out DIR -f {form} --allow-dequantized --measure` times such weights in float32"
    return fault.replace(IN_FLOAT, f"--pick another policy, or name another --runtime; {export}.")
