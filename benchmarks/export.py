"""Exports of uniform policies: accuracy in their runtimes, bytes, and onnxruntime's latency against float32 on this CPU.

python -m benchmarks.export [--task digits] [--batch 1] [--threads 1]    prints a table, of which docs/export-figures.md has a part
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from quant_core.export.runtime import Session
from quant_core.export.tagging import input_names
from search import tasks
from search.config.files import loads
from search.evaluation.measure import first_inputs
from search.exporters.flow import export
from search.sweeps.run import start

EXPERIMENT = """
name = "export"
[task]
name = "{task}"
[space]
weight = ["float", "int8:channel", "int4:channel:mse", "int4:group32:mse"]
activation = ["float", "int8:tensor:ema"]
[device]
name = "counts"
[search]
searcher = "random"
trials = 8
"""
POLICIES = (("float", "float"), ("int8:channel", "int8:tensor:ema"), ("int4:channel:mse", "int8:tensor:ema"), ("int4:group32:mse", "float"))
SECONDS = 1.0


def main() -> None:
    """Sweep the uniform policies, export some, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    example = first_inputs(tasks.load(arguments.task, {}))[: arguments.batch]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        record = start(loads(EXPERIMENT.format(task=arguments.task), "benchmark"), "json").record
        print(f"\n{arguments.task}, batch {len(example)}, {arguments.threads} thread{'s' * (arguments.threads > 1)}\n")
        print(
            "| weights, activations | format | runtime | test accuracy | top-1 equal | largest difference | bytes | latency | of float32 |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        reference = 0.0
        for weight, activation in POLICIES:
            wanted = {(weight, activation)}
            trial = next(t for t in record.trials if {(str(e.weight), str(e.activation)) for e in t.policy.values()} == wanted)
            integers = "float" not in (weight, activation) and "group" not in weight
            formats = ["onnx", "safetensors", *(["c-array"] if integers else [])]
            out = Path(folder, trial.policy.id)
            export("sqlite:///mlflow.db", "export", str(trial.number), formats, out)
            checks = {name: written["checks"] for name, written in json.loads((out / "export.json").read_text())["formats"].items()}
            seconds = _latency(out / "model.onnx", example, arguments.threads, str(checks["onnx"]["onnxruntime_options"]) == "default")
            reference = reference or seconds
            for name in formats:
                print(_row(f"{weight}, {activation}", name, checks[name], (seconds, seconds / reference) if name == "onnx" else None))


def _row(policy: str, name: str, checks: dict[str, Any], latency: tuple[float, float] | None) -> str:
    runtime = {"onnx": "onnxruntime", "safetensors": "torch, read back", "c-array": f"cc, {checks['predictions']:,.0f} examples"}[name]
    size = checks.get("file_bytes", checks.get("array_bytes"))
    time_text = f"{latency[0] * 1e6:.0f} us | {latency[1]:.2f}" if latency else "|"
    options = "" if checks.get("onnxruntime_options", "default") == "default" else " without fusion"
    figures = f"{checks['accuracy_test']:.2%} | {checks['top1_agreement']:.2%} | {checks['largest_output_difference']:.2g}"
    return f"| {policy} | {name} | {runtime}{options} | {figures} of {checks['largest_output']:.3g} | {size:,} | {time_text} |"


def _latency(path: Path, example: torch.Tensor, threads: int, fuse: bool) -> float:
    """Return the median seconds of one call."""
    session = Session(path, input_names(example), threads, fuse=fuse)
    feed = {input_names(example)[0]: example.numpy()}
    for _ in range(5):
        session.arrays(feed)
    times: list[float] = []
    begun = time.perf_counter()
    while time.perf_counter() - begun < SECONDS:
        start_s = time.perf_counter()
        session.arrays(feed)
        times.append(time.perf_counter() - start_s)
    return statistics.median(times)


if __name__ == "__main__":
    main()
