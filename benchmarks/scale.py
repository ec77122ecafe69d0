"""Whether real sizes work: passes, processor time and peak memory, every row in a process of its own.

Ratios are to one forward pass of the float network over the validation split, measured in the same process on one thread; times are
process CPU times, so other work on the machine shifts them little. Every row that is measured is kept in a file of its own, in
`benchmarks/results/scale`; `--write FILE` writes a page of all rows that are kept there, whenever they were measured.

Run: python -m benchmarks.scale [--only ROW ...] [--data FOLDER] [--write docs/scale.md]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks import scale_networks as networks
from benchmarks import scale_results as results
from benchmarks.scale_results import Figures
from quant_core.spec.quant_spec import QuantSpec
from search.tasks.efficientnet_lite0 import efficientnet_lite0
from search.tasks.task import Task

if TYPE_CHECKING:
    from quant_core.ptq.engine import PostTraining
    from quant_core.spec.policy import Policy

PEAK_UNIT = 1024  # ru_maxrss on Linux, bytes
POLICY = "int4:channel:mse", "int8:tensor:mse"
GB_PER_S = 0.15
RESULTS = Path("benchmarks/results/scale")


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        network, what: as the table shows them.
        limit: text of the limit; `meets` says whether figures keep it.
        measure: gives the figures, in a process of its own; the argument is the folder of real data.
    """

    network: str
    what: str
    limit: str
    meets: Callable[[Figures], bool]
    measure: Callable[[Path], Figures]


def cpu_seconds(run: Callable[[], object], repeats: int = 1) -> float:
    """Return the median CPU time of a call."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


def peak_bytes() -> float:
    """Return the largest resident size of this process so far."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT)


def forward_seconds(task: Task) -> float:
    """Return the CPU time of the float network over the validation split."""
    from quant_core.network.forward import forward

    def run() -> None:
        with torch.inference_mode():
            for inputs, _ in task.valid:
                forward(task.model, inputs)

    run()
    return cpu_seconds(run, 3)


def first_policy(millions: int, _data: Path) -> Figures:
    """Apply a first policy and another one to a Llama-like network."""
    from quant_core.network.trace import trace
    from quant_core.ptq.engine import PostTraining
    from quant_core.spec.policy import LayerPolicy, Policy
    from quant_core.spec.quant_spec import parse

    task = networks.llama(millions)
    inputs = [x for x, _ in task.calib]
    weight, activation = map(parse, POLICY)
    load = cpu_seconds(lambda: _load_loops(weight, activation))
    once, passes = forward_seconds(task), 0
    start = time.process_time()
    layers = trace(task.model, inputs[0])
    engine = PostTraining(task.model, layers, inputs, inputs[0])

    def count(*_arguments: object) -> None:
        nonlocal passes
        passes += 1

    handle = engine.model.register_forward_pre_hook(count)
    policy = Policy({layer.name: LayerPolicy(weight, activation) for layer in layers})
    with torch.inference_mode():
        engine.apply(policy)
        gathering, passes = passes, 0
        engine.model(inputs[0])
        first = time.process_time() - start
        handle.remove()
        second = statistics.median(cpu_seconds(partial(_next_policy, engine, policy, first_one, inputs[0])) for first_one in range(3))
    weights = 4.0 * sum(layer.weights for layer in layers)
    return {
        "forward_s": once,
        "load_s": load,
        "calibration_passes": 1.0 + gathering,
        "first_s": first,
        "allowed_s": 8 * once + weights / (GB_PER_S * 1e9),
        "second_passes": second / once,
        "weights_bytes": weights,
        "peak_bytes": peak_bytes(),
    }


def _next_policy(engine: "PostTraining", policy: "Policy", start: int, inputs: torch.Tensor) -> None:
    """Apply `policy` with a tenth of the layers in 8 bits, every third of all from the layer `start` on, and run it."""
    from quant_core.spec.policy import LayerPolicy, Policy
    from quant_core.spec.quant_spec import parse

    names = list(policy)
    changed = names[start :: max(1, len(names) // 3)][: max(1, len(names) // 10)]
    engine.apply(Policy(dict(policy) | {name: LayerPolicy(parse("int8:channel:mse"), policy[name].activation) for name in changed}))
    engine.model(inputs)


def _load_loops(weight: QuantSpec, activation: QuantSpec) -> None:
    """Quantize one small layer: numba's rules and compiled loops are loaded once in a process, whatever the network's size."""
    from quant_core.network.trace import trace
    from quant_core.ptq.engine import PostTraining
    from quant_core.spec.policy import LayerPolicy, Policy

    model, x = torch.nn.Sequential(torch.nn.Linear(512, 8)).eval(), torch.randn(4, 512)
    layers = trace(model, x)
    engine = PostTraining(model, layers, [x], x)
    engine.apply(Policy({layer.name: LayerPolicy(weight, activation) for layer in layers}))


def sweep(
    make: Callable[[Path], Task], trials: int, weight: Sequence[str], activation: Sequence[str], sizes: dict[str, int], data: Path
) -> Figures:
    """Run a whole sweep by `auto` as the command line does, and return its cost in forward passes."""
    task = make(data)
    once = forward_seconds(task)
    import bitfront
    from quant_core.util.allocator import keep_pages
    from search.records.front import hypervolume_of

    keep_pages()
    before = resource.getrusage(resource.RUSAGE_SELF)
    result = bitfront.sweep(
        task,
        weight=list(weight),
        activation=list(activation),
        device="counts",
        objectives=("error", "weight_bytes"),
        trials=trials,
        threads=1,
        searcher="auto",
        record=None,
        log="none",
        calib=sizes.get("calib"),
        valid=sizes.get("valid"),
        test=sizes.get("test"),
    )
    after = resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    weights = 4.0 * sum(parameter.numel() for parameter in task.model.parameters())
    return {
        "forward_s": once,
        "passes": (user + system) / once,
        "system_share": system / (user + system),
        "hypervolume": hypervolume_of(result.record, result.record.trials),
        "weights_bytes": weights,
        "peak_bytes": peak_bytes(),
    }


def large_layer(make: Callable[[], Task], _data: Path) -> Figures:
    """Measure and export a policy of a network with one large layer."""
    import bitfront

    task = make()
    once = forward_seconds(task)
    sweep = bitfront.sweep(
        task,
        weight=[POLICY[0]],
        activation=[POLICY[1]],
        device="counts",
        objectives=("error", "weight_bytes"),
        trials=1,
        record=None,
        log="none",
    )
    with tempfile.TemporaryDirectory() as folder:
        sweep.export(sweep.best(100.0), Path(folder) / "out", formats=["safetensors", "onnx"])
    return {"forward_s": once, "peak_bytes": peak_bytes()}


def searcher(layers: int, _data: Path) -> Figures:
    """Sensitivities, then proposals of `auto` that are told estimated errors, on a chain of tiny layers."""
    from search import searchers
    from search.config.experiment import Experiment
    from search.problem.problem import Trial
    from search.sweeps.context import open_context

    trials = 60
    settings = {
        "task": {"name": "benchmarks.scale_networks:tiny_layers", "options": {"count": layers}},
        "space": {"weight": ["int2:channel:mse", "int4:channel:mse", "int8:channel:mse"], "activation": ["int4:tensor", "int8:tensor"]},
        "device": {"name": "counts", "objectives": ["error", "weight_bytes"]},
        "search": {"searcher": "auto", "trials": trials},
    }
    task = networks.tiny_layers(layers)
    once = forward_seconds(task)
    context = open_context(Experiment.model_validate(settings), task)
    start = time.process_time()
    rises = context.sensitivity()
    spent = time.process_time() - start
    problem = context.problem({"error_valid": 0.1})

    def measured(trial: Trial) -> tuple[float, ...]:
        error = 0.1 + sum(float(row[k]) for row, k in zip(rises, trial.values, strict=True))
        return (error, *[problem.costs_of(trial.values)["weight_bytes"]])

    start = time.process_time()
    agent = searchers.build("auto", problem, 0, trials)
    for _ in range(trials):
        trial = agent.ask()
        if trial is None:
            break
        agent.tell(trial, measured(trial))
    per_trial = (time.process_time() - start) / trials
    return {"forward_s": once, "passes": spent / once, "evaluations": float(context.sensitivity.evaluations), "proposal_s": per_trial}


SPACE = ["int2:channel:mse", "int3:channel:mse", "int4:channel:mse", "int8:channel:mse"], ["int4:tensor:mse", "int8:tensor:mse"]
WEIGHTS = ["int4:channel:mse", "int8:channel:mse"], ["int8:tensor:mse"]


def _rows() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for millions in networks.LLAMAS:
        name = f"Llama-like, {millions} M"
        limit = "<= 2 calibration passes; CPU <= 8 forward passes + weights at 0.15 GB/s; the second <= 1.5 forward passes"
        rows[f"llama-{millions}"] = Row(
            name,
            "first int4/int8 policy, then another with 10 % of layers changed",
            limit,
            lambda figures: (
                figures["calibration_passes"] <= 2 and figures["first_s"] <= figures["allowed_s"] and figures["second_passes"] <= 1.5
            ),
            partial(first_policy, millions),
        )
        rows[f"llama-{millions}-sweep"] = Row(
            name,
            "12 trials of auto, peak memory",
            "<= 3 x weights + 1 GB",
            lambda figures: figures["peak_bytes"] <= 3 * figures["weights_bytes"] + 1e9,
            partial(sweep, lambda _data, millions=millions: networks.llama(millions), 12, *WEIGHTS, {}),  # type: ignore[misc]
        )
    rows["resnet50"] = Row(
        "ResNet-50 shape, 224 px",
        "12 trials of auto, all in",
        "<= 60 forward passes",
        lambda figures: figures["passes"] <= 60,
        partial(sweep, lambda _data: networks.resnet50(), 12, *WEIGHTS, {"calib": 64, "valid": 128}),
    )
    rows["efficientnet"] = Row(
        "EfficientNet-Lite0, trained",
        "40 trials of auto, all in",
        "<= 70 forward passes, system time <= 5 %, peak < 1.5 GB",
        lambda figures: figures["passes"] <= 70 and figures["system_share"] <= 0.05 and figures["peak_bytes"] < 1.5e9,
        partial(sweep, lambda data: efficientnet_lite0(str(data)), 40, *SPACE, {"calib": 64, "valid": 200, "test": 300}),
    )
    for layers in (25, 100, 300):
        rows[f"layers-{layers}"] = Row(
            f"{layers} tiny layers",
            "sensitivities and proposals of auto",
            "forward passes at most linear in layers; <= 10 ms per trial",
            lambda figures: figures["proposal_s"] <= 0.01,
            partial(searcher, layers),
        )
    large = {"convolution": ("convolution, K = 65,536", networks.wide_convolution), "head": ("head of 151,936 rows", networks.wide_head)}
    for name, (network, make) in large.items():
        rows[name] = Row(
            network,
            "sweep, export to safetensors and onnx",
            "< 4 GiB",
            lambda figures: figures["peak_bytes"] < 4 * 2**30,
            partial(large_layer, make),
        )
    return rows


ROWS = _rows()


def measured(name: str, data: Path) -> Figures:
    """Run one row in a process of its own.

    Raises:
        RuntimeError: it failed; with the last line that it printed.
    """
    command = [sys.executable, "-m", "benchmarks.scale", "--measure", name, "--data", str(data)]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "BITFRONT_CACHE": cache, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    figures: Figures = json.loads(done.stdout.strip().rpartition("\n")[2])
    return figures


def line(name: str, figures: Figures) -> str:
    """Return one row of the table."""
    row = ROWS[name]
    return f"| {row.network} | {row.what} | {results.shown(figures)} | {row.limit} | {'yes' if row.meets(figures) else 'no'} |"


def page(folder: Path) -> str:
    """Return the page of all rows that are kept in a folder, in the order of `ROWS`."""
    kept = {name: folder / f"{name}.json" for name in ROWS}
    return results.page([line(name, json.loads(path.read_text())) for name, path in kept.items() if path.is_file()])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, keep what was measured, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(ROWS), default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of real data; absent: rows on it are left out")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows that were measured")
    parser.add_argument("--write", type=Path, help="also write all kept rows to this page")
    parser.add_argument("--measure", choices=list(ROWS), help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.measure:
        torch.set_num_threads(1)
        print(json.dumps(ROWS[parsed.measure].measure(parsed.data)))
        return
    print(*results.HEAD, sep="\n", flush=True)
    for name in parsed.only:
        try:
            figures = measured(name, parsed.data)
        except RuntimeError as error:
            print(f"| {ROWS[name].network} | {ROWS[name].what} | not measured: {error} | {ROWS[name].limit} | - |", flush=True)
            continue
        parsed.results.mkdir(parents=True, exist_ok=True)
        (parsed.results / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
        print(line(name, figures), flush=True)
    if parsed.write:
        parsed.write.write_text(page(parsed.results))


if __name__ == "__main__":
    main()
