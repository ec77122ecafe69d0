"""Post-training quantization at low bits, method by method: every cell of docs/ptq.md is measured here and kept.

    python -m benchmarks.ptq --data ../shared/data [--networks efficientnet_lite0,digits] [--columns nearest,gptq] [--seeds 3]
    python -m benchmarks.ptq --tables

Every cell is a line of `--store` as soon as it is measured and is not measured again: an interrupted run resumes, and a run with
other networks, columns or seeds adds to the page. `--tables` measures nothing. All layers take the same policy, figures are those of
the test split, bits count scales. A cell's cost is the CPU time of quantizing every layer, second moments and activation ranges at hand,
in evaluations of the float network on the test split. A seed chooses the calibration examples; of digits the float network.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import peers_bar
from benchmarks.ptq_report import Cell, read, write
from benchmarks.stores import append
from quant_core.network.forward import rows_mapped
from quant_core.network.trace import trace
from quant_core.spec.layer import Layer
from quant_core.spec.policy import NONE, Policy, parse_layer_policy
from quant_core.spec.size import average_bits
from quant_core.transforms.apply import untied
from quant_core.util.rng import generator
from search.config.evaluation import EvaluateSection
from search.evaluation.evaluator import Evaluator
from search.tasks.batches import Pair, size_of
from search.tasks.checks import divided_task
from search.tasks.efficientnet_lite0 import efficientnet_lite0
from search.tasks.fashion_mnist import fashion_mnist
from search.tasks.llama10m.task import llama10m
from search.tasks.minilm_sts import minilm_sts
from search.tasks.stories260k import stories260k
from search.tasks.task import Batch, Task

ROOT = Path(__file__).parent.parent
STORE, PAGE = ROOT / "benchmarks" / "results" / "ptq.jsonl", ROOT / "docs" / "ptq.md"
COLUMNS = {
    "nearest": "",
    "nearest, weighted": ":weighted",
    "adaround": ":adaround",
    "gptq": ":gptq",
    "gptq, weighted": ":weighted:gptq",
    "reconstruct": "",
    "nearest, rotated": "",
    "gptq, smoothed": ":gptq",
    "gptq, rotated": ":gptq",
}
TRANSFORMS = {"nearest, rotated": "rotate", "gptq, smoothed": "smooth", "gptq, rotated": "rotate"}
"""Column -> the transform of the network under it; for rows with inputs of `ROWWISE`."""
RECONSTRUCTION = {"steps": 100, "lr": 0.1}
MANY = "efficientnet_lite0_263"
"""EfficientNet-Lite0 once more, calibrated with all images of the calibration split; seeds would choose the same ones."""
OPTIONS: dict[str, dict[str, object]] = {
    "efficientnet_lite0": {"steps": 40, "whole": 20},
    MANY: {"steps": 60, "whole": 20, "loss": "mse"},
    "minilm": {"steps": 60},
    "llama10m": {"steps": 40},
}
"""Options of a reconstruction, and what differs for networks whose steps take seconds."""
A8, A4, ROWWISE = "int8:tensor:mse", "int4:tensor:mse", "int4:token"
_IMAGENET = (("int4:channel:mse", A8), ("int3:channel:mse", A8), ("int4:channel:mse", A4))
ROWS = {
    "efficientnet_lite0": _IMAGENET,
    MANY: _IMAGENET,
    "mobilenetv2": (("int4:channel:mse", A8),),
    "minilm": (("int4:group64:mse", A8), ("int3:group64:mse", A8), ("int2:group64:mse", A8), ("int4:group64:mse", ROWWISE)),
    "stories260k": (("int4:group32:mse", "float"), ("int3:group32:mse", "float"), ("int4:group32:mse", ROWWISE)),
    "llama10m": (("int4:group32:mse", "float"), ("int3:group32:mse", "float"), ("int4:group32:mse", ROWWISE)),
    "digits": (("3.0 bits", ""), ("2.5 bits", "")),
}
_TRIALS, _EXAMPLES, BATCH = 12, 128, 32


def network(name: str, data: str) -> Task:
    """Return one of `ROWS` as a task; its calibration split holds all that seeds may choose from."""
    if name in ("efficientnet_lite0", MANY):
        return efficientnet_lite0(data, calib_size=263, valid_size=1, test_size=300, batch_size=BATCH)
    if name == "mobilenetv2":
        return fashion_mnist(data, network=name, calib_size=1536, valid_size=64, test_size=10_000, batch_size=BATCH)
    if name == "minilm":
        return minilm_sts(data, calib_size=768, valid_size=16, test_size=1000, batch_size=1)  # no pair is padded to the length of another
    if name == "llama10m":
        return replace(llama10m(calib_size=384, valid_size=1, test_size=128), metrics=("kld", "accuracy"))
    return replace(stories260k(data, calib_size=384, valid_size=1, test_size=64), metrics=("kld", "accuracy"))


SHARE = {"efficientnet_lite0": 64 / 263, MANY: 1.0, "mobilenetv2": 1 / 3, "minilm": 1 / 3, "stories260k": 1 / 3, "llama10m": 1 / 3}
"""Of the calibration split, the examples of one seed; seed 0 has the first."""


def chosen(task: Task, share: float, seed: int) -> Task:
    """Return the task with the calibration examples of a seed: of every batch those that are picked."""
    task = divided_task(task)
    batches = list(task.calib)
    sizes = [size_of(*batch) for batch in batches]
    order = torch.randperm(sum(sizes), generator=generator(seed)) if seed else torch.arange(sum(sizes))
    picked = torch.zeros(len(order), dtype=torch.bool)
    picked[order[: round(share * len(order))]] = True
    masks = zip(batches, torch.split(picked, sizes), strict=True)
    return replace(task, calib=[_taken(batch, mask) for batch, mask in masks if mask.any()])


def _taken(batch: Batch, mask: torch.Tensor) -> Batch:
    inputs, targets = (rows_mapped(lambda rows: rows[mask], part) for part in batch)
    return Pair(inputs, targets)


class Bench:
    """One network and the calibration examples of one seed; the engine is made when the first cell asks for it."""

    def __init__(self, name: str, task: Task, seed: int) -> None:
        self._name, self._task, self._seed = name, chosen(task, SHARE[name], seed), seed
        self._traced = trace(self._task.model, next(iter(self._task.calib))[0])
        self._section = EvaluateSection(cache_mib=1024, reconstruct=RECONSTRUCTION | OPTIONS.get(name, {}))
        self._made: dict[str, tuple[Evaluator, Sequence[Layer]]] = {}
        evaluator, _ = self._under(NONE)
        start = time.process_time()
        self._float = evaluator.float_metrics("test")
        self._pass_s = time.process_time() - start

    def _under(self, transform: str) -> tuple[Evaluator, Sequence[Layer]]:
        """Return the evaluator of the network under a transform, second moments at hand, and its layers."""
        if transform not in self._made:
            layers = untied(self._traced, self._task.model, (transform,), [inputs for inputs, _ in self._task.calib])
            evaluator = Evaluator(self._task, layers, self._section, transforms=(transform,))
            self._made[transform] = evaluator, layers
            evaluator.engine.apply(self._policy("int8:channel", "float", transform))
        return self._made[transform]

    def _policy(self, weight: str, activation: str, transform: str) -> Policy:
        choice = parse_layer_policy(f"weight={weight},activation={activation}")
        return Policy({layer.name: choice for layer in self._made[transform][1]}, transform)

    def reference(self) -> Cell:
        """Return the cell of the float network."""
        return Cell(self._name, "float", "float", "float", self._seed, 32.0, _figures(self._float), 0.0)

    def measure(self, weight: str, activation: str, column: str) -> Cell:
        """Return one cell."""
        transform = TRANSFORMS.get(column, NONE)
        evaluator, layers = self._under(transform)
        policy = self._policy(weight + COLUMNS[column], activation, transform)
        start, fidelity = time.process_time(), "reconstruct" if column == "reconstruct" else "ptq"
        if fidelity == "ptq":
            evaluator.engine.apply(policy)
        else:
            evaluator.reconstructed(policy)
        spent = time.process_time() - start
        figures = _figures(evaluator.metrics(policy, "test", fidelity))
        bits = average_bits(layers, policy)["bits_weight_avg"]
        return Cell(self._name, weight, activation, column, self._seed, bits, figures, spent / self._pass_s)


def _figures(metrics: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if name != "error"}


def searched(budget: str, column: str, seed: int) -> Cell:
    """Return a cell of digits: a search at so many true bits, its weights rounded by `column` all through; AdaRound: at the end."""
    target = float(budget.split(maxsplit=1)[0])
    last = column == "adaround"
    row = peers_bar.search("linear", target, seed, _TRIALS, _EXAMPLES, "" if last else COLUMNS[column], last)
    return Cell("digits", budget, "int8:tensor:mse", column, seed, row.bits, {"loss": row.loss, "drop": row.drop}, row.cpu_s)


def missing(networks: Sequence[str], columns: Sequence[str], seeds: int, done: set[tuple[object, ...]]) -> Iterator[tuple[Any, ...]]:
    """Yield (network, seed, cells to measure), each cell (weight, activation, column)."""
    for name in networks:
        for seed in range(max(seeds, 5) if name == "digits" else seeds):
            wanted = [
                (weight, activation, column) for weight, activation in ROWS[name] for column in columns if _fits(name, activation, column)
            ]
            left = [cell for cell in wanted if (name, *(cell if name != "digits" else (cell[0], A8, cell[2])), seed) not in done]
            if left:
                yield name, seed, left


def _fits(name: str, activation: str, column: str) -> bool:
    """Tell whether a column is measured in a row: transforms only where inputs are quantized row by row, as those of transformers."""
    return activation == ROWWISE if column in TRANSFORMS else (name, column) != ("digits", "reconstruct")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the store lacks, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ptq", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=str(ROOT.parent / "shared" / "data"), help="folder of the tasks' data")
    parser.add_argument("--networks", default=",".join(ROWS))
    parser.add_argument("--columns", default=",".join(COLUMNS), help="separated by semicolons where a name has a comma")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--tables", action="store_true", help="measure nothing, write the page")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    columns = list(COLUMNS) if parsed.columns == ",".join(COLUMNS) else parsed.columns.split(";" if ";" in parsed.columns else ",")
    done = {cell.key for cell in read(parsed.store)}
    todo = [] if parsed.tables else list(missing(parsed.networks.split(","), columns, parsed.seeds, done))
    tasks: dict[str, Task] = {}
    for name, seed, cells in todo:
        for work in _work(name, seed, cells, done, tasks, parsed.data):
            cell = work()
            append(parsed.store, cell)
            print(cell, flush=True)
    write(parsed.page, read(parsed.store))


def _work(
    name: str, seed: int, cells: Sequence[tuple[str, str, str]], done: set[tuple[object, ...]], tasks: dict[str, Task], data: str
) -> Iterator[Callable[[], Cell]]:
    """Yield the measurements of one network and seed, in order."""
    if name == "digits":
        yield from (partial(searched, budget, column, seed) for budget, _, column in cells)
        return
    tasks[name] = tasks[name] if name in tasks else network(name, data)
    bench = Bench(name, tasks[name], seed)
    if (name, "float", "float", "float", seed) not in done:
        yield bench.reference
    yield from (partial(bench.measure, *cell) for cell in cells)


if __name__ == "__main__":
    main()
