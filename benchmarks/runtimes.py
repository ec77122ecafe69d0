"""Uniform policies of a task in runtimes: metric, agreement, bytes against the modelled ones, time against float32 on one and two threads.

python -m benchmarks.runtimes --task digits [--option path=FOLDER] [--test 100] [--format executorch]
prints lines of the tables of docs/export-runtimes.md and docs/export-executorch.md
"""

import argparse
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from quant_core.export.replay import timed
from quant_core.export.stored import post_training
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import LayerPolicy, Policy, parse_layer_policy
from quant_core.spec.quant_spec import FLOAT
from quant_core.util.errors import BitfrontError
from quant_core.util.registry import resolve
from search import tasks
from search.evaluation.measure import first_inputs, take, traced_inputs
from search.exporters import EXPORTERS, Bundle
from search.exporters.profiling import enough
from search.exporters.runtimes import example_arrays, runtime

FORMATS = {"onnx": "onnxruntime", "onnx-matmulnbits": "onnxruntime", "openvino": "openvino", "executorch": "executorch"}
POLICIES = (
    "weight=int8:channel,activation=int8:tensor",
    "weight=int4:channel:mse,activation=int8:tensor",
    "weight=int8:channel",
    "weight=int4:channel:mse",
    "weight=int4:group32:mse:fp16",
)
CALIBRATION = 64


def main() -> None:
    """Export every policy in every format that holds it, run it on the test split, time it beside float32."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--option", action="append", default=[])
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--policy", action="append")
    parser.add_argument("--format", action="append", choices=list(FORMATS))
    arguments = parser.parse_args()
    task = tasks.load(arguments.task, dict(option.split("=", 1) for option in arguments.option))
    inputs, example = traced_inputs(task), first_inputs(task)
    layers = tuple(trace(task.model, inputs[0], inputs))
    engine = PostTraining(task.model, layers, [batch for batch, _ in take(task.calib, CALIBRATION)], example)
    print("| policy | format | metric | top-1 equal | weight bytes / modelled | graph and the rest | x float32, 1 thread | 2 threads |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for text in arguments.policy or POLICIES:
        choice = parse_layer_policy(text)
        policy = Policy({layer.name: _fitting(choice, layer) for layer in layers})
        network = post_training(engine, task.model, layers, policy, example)
        experiment: Any = SimpleNamespace(evaluate=SimpleNamespace(test=arguments.test))
        bundle = Bundle(policy, layers, experiment, task, network, cast(Any, None), cast(Any, None), {})
        for name in arguments.format or FORMATS:
            print(_line(bundle, name, text), flush=True)


def _fitting(choice: LayerPolicy, layer: Any) -> LayerPolicy:
    return choice if layer.takes_activation and layer.calls else LayerPolicy(choice.weight, FLOAT)


def _line(bundle: Bundle, name: str, text: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            exported = cast(Any, resolve(EXPORTERS, "export format", name))(bundle, Path(folder))
        except BitfrontError as error:
            return f"| {text} | {name} | refused: {str(error)[:80]} | | | | | |"
        checks, target = exported.checks, runtime(FORMATS[name])
        metric = next(f"{key.removesuffix('_test')} {value:.4g}" for key, value in checks.items() if key.endswith("_test"))
        payload, modelled = float(checks["payload_bytes"]), float(checks["modelled_weight_bytes"])
        reference = target.write_float(bundle.task.model, bundle.network.example, Path(folder))
        arrays, ratios = example_arrays(bundle.network.example), []
        for threads in (1, 2):
            fuse = checks.get("onnxruntime_options", "default") == "default"
            files = [(Path(folder, exported.files[0]), {"threads": threads, "fuse": fuse}), (reference, {"threads": threads})]
            first = float(timed(files, arrays, target.name, repeats=3, own=threads == 1).min(axis=0).sum())
            least = timed(files, arrays, target.name, repeats=enough(30, first), own=threads == 1).min(axis=0)
            ratios.append(f"{least[0] / least[1]:.2f} ({least[0] * 1e3:.3g} ms)")
        size = f"{payload / modelled:.3f} | {float(checks['file_bytes']) - payload:,.0f}"
        return f"| {text} | {name} | {metric} | {checks['top1_agreement']:.2%} | {size} | {ratios[0]} | {ratios[1]} |"


if __name__ == "__main__":
    main()
