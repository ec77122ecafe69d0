"""Uniform policies of five networks in every format that holds them: the tables of docs/export-figures.md.

    python -m benchmarks.runtimes [--data ../shared/data] [--network minilm] [--format openvino] [--policy ...]
    python -m benchmarks.runtimes --tables

Every cell (network, policy, format) is a line of `--store` as soon as it is measured, and is not measured again on that processor; a format
whose runtime is not installed is left for another run. A cell is an export as `bitfront export` makes it, run on the test split in a fresh
process, and the time of one example: CPU time on one thread, the clock's on two, medians of ratios to neighbouring calls of the float
network's. --no-times leaves the times for another run.
"""

import argparse
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from benchmarks.runtimes_report import FLOAT_POLICY, Cell, Time, read, write
from benchmarks.stores import append
from hw_models.profiling.host import flags, processor
from quant_core.export.replay import timed
from quant_core.export.stored import post_training
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy, Policy, parse_layer_policy
from quant_core.spec.quant_spec import FLOAT
from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.registry import resolve
from search import tasks
from search.evaluation.measure import first_inputs, take, traced_inputs
from search.exporters import EXPORTERS, Bundle, Exported
from search.exporters.profiling import enough
from search.exporters.runtimes import example_arrays, runtime

ROOT = Path(__file__).parent.parent
STORE, PAGE = ROOT / "benchmarks" / "results" / "runtimes.jsonl", ROOT / "docs" / "export-figures.md"
FORMATS = {
    "onnx": "onnxruntime",
    "onnx-matmulnbits": "onnxruntime",
    "openvino": "openvino",
    "litert": "litert",
    "executorch": "executorch",
    "gguf": "",
    "compressed-tensors": "",
    "torchao": "",
}
"""Format -> the runtime that times its files, if any."""
PACKAGES = {"gguf": "gguf", "compressed-tensors": "compressed_tensors", "torchao": "torchao"}
POLICIES = (
    FLOAT_POLICY,
    "weight=int8:channel,activation=int8:tensor",
    "weight=int4:channel:mse,activation=int8:tensor",
    "weight=int8:channel",
    "weight=int4:group32:mse",
)
CALIBRATION, REPEATS = 64, 30
INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "amx_int8": "AMX int8",
    "asimddp": "dot products",
    "i8mm": "I8MM",
}
"""Flag of Linux -> the set's name."""


@dataclass(frozen=True)
class Network:
    """A task of the table.

    Attributes:
        task, options: as an experiment names them.
        test: examples of the test split that are run.
        data: the task takes the folder of data as its option `path`.
        bias_correction: of the engine; llama.cpp's Llama has no place for the biases that it makes.
    """

    task: str
    test: int
    options: dict[str, Any] = field(default_factory=dict)
    data: bool = True
    bias_correction: bool = True


NETWORKS = {
    "digits": Network("digits", 600, data=False),
    "efficientnet_lite0": Network("efficientnet_lite0", 100),
    "minilm": Network("minilm_sts", 100, {"length": 32, "pad": True}),
    "stories260k": Network("stories260k", 16, bias_correction=False),
    "llama10m": Network("llama10m", 16, data=False, bias_correction=False),
}


class Bench:
    """A network that is quantized by uniform policies and exported."""

    def __init__(self, name: str, data: str) -> None:
        self._name, self._network = name, NETWORKS[name]
        self._task = tasks.load(self._network.task, self._network.options | ({"path": data} if self._network.data else {}))
        inputs, self._example = traced_inputs(self._task), first_inputs(self._task)
        self._layers = tuple(trace(self._task.model, inputs[0], inputs))
        batches = [batch for batch, _ in take(self._task.calib, CALIBRATION)]
        correction = self._network.bias_correction
        self._engine = PostTraining(self._task.model, self._layers, batches, self._example, bias_correction=correction)

    def cell(self, text: str, form: str, timed: bool = True) -> Cell:
        """Return a cell; a format that does not hold the policy or the network says why in it."""
        with tempfile.TemporaryDirectory() as place:
            bundle = self._bundle(text)
            try:
                exported = cast(Any, resolve(EXPORTERS, "export format", form))(bundle, Path(place))
            except BitfrontError as error:
                return Cell(self._name, text, form, refused=str(error), processor=described())
            times = self._times(bundle, exported, Path(place), FORMATS[form]) if FORMATS[form] and timed else {}
        return Cell(self._name, text, form, **_figures(exported), times=times, processor=described())

    def _bundle(self, text: str) -> Bundle:
        choice = parse_layer_policy(text)
        policy = Policy({layer.name: _fitting(choice, layer) for layer in self._layers})
        quantized = post_training(self._engine, self._task.model, self._layers, policy, self._example)
        sizes, named = SimpleNamespace(test=self._network.test), SimpleNamespace(name=self._network.task)
        experiment: Any = SimpleNamespace(evaluate=sizes, task=named)
        return Bundle(policy, self._layers, experiment, self._task, quantized, cast(Any, None), cast(Any, None), {})

    def _times(self, bundle: Bundle, exported: Exported, place: Path, name: str) -> dict[str, Time]:
        """Return threads -> the time of one example beside the float network's."""
        target, arrays, times = runtime(name), example_arrays(bundle.network.example), {}
        reference = target.write_float(bundle.task.model, bundle.network.example, place)
        options = str(exported.checks.get("onnxruntime_options", exported.checks.get("runtime_options", "")))
        fuse = "disable_quant_qdq" not in options and "LP_TRANSFORMS_MODE" not in options
        for threads in (1, 2):
            files = [(place / exported.files[0], {"threads": threads, "fuse": fuse}), (reference, {"threads": threads})]
            first = float(timed(files, arrays, name, repeats=3, own=threads == 1).min(axis=0).sum())
            rows = timed(files, arrays, name, repeats=enough(REPEATS, first), own=threads == 1)
            times[str(threads)] = Time(float(np.median(rows[:, 0] / rows[:, 1])), float(rows[:, 0].min()), float(rows[:, 1].min()))
        return times


def _fitting(choice: LayerPolicy, layer: Layer) -> LayerPolicy:
    """Return the choice without what the layer does not take; a matrix whose rows are no multiple of the group stays in float."""
    block = choice.weight.block if choice.weight.granularity == "group" else 1
    weight = FLOAT if layer.kind in ("linear", "embedding") and layer.weight_shape[-1] % block else choice.weight
    return LayerPolicy(weight, choice.activation if layer.takes_activation and layer.calls else FLOAT)


def _figures(exported: Exported) -> dict[str, Any]:
    """Return the figures of an export under the names of a cell's; those of torchao's file of weights have a prefix."""
    checks = {name.removeprefix("weights_"): value for name, value in exported.checks.items()}
    metric = next((name for name in checks if name.endswith("_test")), "")
    counts = (checks.get(f"integer_{kind}", "") for kind in ("convolutions", "linears"))
    return {
        "metric": metric.removesuffix("_test"),
        "value": float(checks.get(metric, 0.0)),
        "agreement": float(checks["top1_agreement"]),
        "file_bytes": int(checks["file_bytes"]),
        "payload_bytes": float(checks.get("payload_bytes", 0)),
        "modelled_bytes": float(checks.get("modelled_weight_bytes", 0)),
        "integers": " + ".join(str(count) for count in counts if count),
        "notes": list(exported.notes),
    }


def described() -> str:
    """Return the processor's name and those of its instruction sets that int8 kernels are written for."""
    found = [shown for flag, shown in INSTRUCTIONS.items() if flag in flags()]
    return f"{processor()} ({', '.join(found) or 'none of ' + ', '.join(INSTRUCTIONS.values())})"


def absent(form: str) -> str:
    """Return why a format cannot be measured here, or ""."""
    try:
        if FORMATS[form]:
            runtime(FORMATS[form])
        elif find_spec(PACKAGES[form]) is None:
            return f"{form} needs {PACKAGES[form]}, which is not installed."
    except InputError as error:
        return str(error)
    return ""


def missing(networks: Sequence[str], policies: Sequence[str], formats: Sequence[str], done: set[object]) -> Iterator[tuple[str, str, str]]:
    """Yield the cells that are not measured yet on this processor; of the float network those of onnx alone."""
    here = described()
    for name in networks:
        for text in policies:
            for form in formats if text != FLOAT_POLICY else ("onnx",):
                if (name, text, form, here) not in done:
                    yield name, text, form


def measure(todo: Sequence[tuple[str, str, str]], store: Path, data: str, timed: bool = True) -> int:
    """Measure cells, add each to the store, and return how many failed otherwise than by a sentence."""
    benches: dict[str, Bench] = {}
    failed = 0
    for name, text, form in todo:
        if name not in benches:
            benches = {name: Bench(name, data)}
        try:
            cell = benches[name].cell(text, form, timed)
        except Exception:
            traceback.print_exc()
            failed += 1
            continue
        append(store, cell)
        print(cell, flush=True)
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the store lacks, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.runtimes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=str(ROOT.parent / "shared" / "data"), help="folder of the tasks' data")
    parser.add_argument("--network", action="append", choices=list(NETWORKS))
    parser.add_argument("--policy", action="append")
    parser.add_argument("--format", action="append", choices=list(FORMATS))
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--no-times", action="store_true", help="on a busy machine: a later run without it takes the times")
    parser.add_argument("--tables", action="store_true", help="measure nothing, write the page")
    parsed = parser.parse_args(arguments)
    faults = {form: fault for form in ([] if parsed.tables else parsed.format or FORMATS) if (fault := absent(form))}
    for form, fault in faults.items():
        print(f"{form}: not measured here: {fault}", flush=True)
    formats = [form for form in parsed.format or FORMATS if form not in faults]
    done: set[object] = {cell.key for cell in read(parsed.store) if parsed.no_times or cell.times or cell.refused or not FORMATS[cell.form]}
    todo = [] if parsed.tables else list(missing(parsed.network or list(NETWORKS), parsed.policy or POLICIES, formats, done))
    failed = measure(todo, parsed.store, parsed.data, not parsed.no_times)
    write(parsed.page, read(parsed.store))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
