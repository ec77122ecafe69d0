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
from quant_core.network.trace import trace
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.spec.size import average_bits
from quant_core.util.rng import generator
from search.config.evaluation import EvaluateSection
from search.evaluation.evaluator import Evaluator
from search.tasks.efficientnet_lite0 import efficientnet_lite0
from search.tasks.fashion_mnist import fashion_mnist
from search.tasks.minilm_sts import minilm_sts
from search.tasks.stories260k import stories260k
from search.tasks.task import Task

ROOT = Path(__file__).parent.parent
STORE, PAGE = ROOT / "benchmarks" / "results" / "ptq.jsonl", ROOT / "docs" / "ptq.md"
COLUMNS = {
    "nearest": "",
    "nearest, weighted": ":weighted",
    "adaround": ":adaround",
    "gptq": ":gptq",
    "gptq, weighted": ":weighted:gptq",
    "reconstruct": "",
}
RECONSTRUCTION = {"steps": 100, "lr": 0.1}
FEWER = {"efficientnet_lite0": {"steps": 40, "whole": 20}}
"""Options of a reconstruction, and what is less for networks whose steps take seconds."""
A8, A4 = "int8:tensor:mse", "int4:tensor:mse"
ROWS = {
    "efficientnet_lite0": (("int4:channel:mse", A8), ("int3:channel:mse", A8), ("int4:channel:mse", A4)),
    "mobilenetv2": (("int4:channel:mse", A8),),
    "minilm": (("int4:group64:mse", A8), ("int3:group64:mse", A8), ("int2:group64:mse", A8), ("int4:channel:mse", "int4:token")),
    "stories260k": (("int4:group32:mse", "float"), ("int3:group32:mse", "float")),
    "digits": (("3.0 bits", ""), ("2.5 bits", "")),
}
_TRIALS, _EXAMPLES = 12, 128


def network(name: str, data: str) -> Task:
    """Return one of `ROWS` as a task; its calibration split holds all that seeds may choose from."""
    if name == "efficientnet_lite0":
        return efficientnet_lite0(data, calib_size=263, valid_size=1, test_size=300)
    if name == "mobilenetv2":
        return fashion_mnist(data, network=name, calib_size=1536, valid_size=64, test_size=10_000)
    if name == "minilm":
        return minilm_sts(data, calib_size=192, valid_size=16, test_size=1000)
    return replace(stories260k(data, calib_size=48, valid_size=1, test_size=64), metrics=("kld", "accuracy"))


SHARE = {"efficientnet_lite0": 64 / 263, "mobilenetv2": 1 / 3, "minilm": 1 / 3, "stories260k": 1 / 3}
"""Of the calibration split, the examples of one seed; seed 0 has the first."""


def chosen(task: Task, share: float, seed: int) -> Task:
    """Return the task with the calibration examples of a seed."""
    batches = list(task.calib)
    inputs, targets = (_joined([batch[part] for batch in batches]) for part in range(2))
    count = len(targets)
    order = torch.randperm(count, generator=generator(seed)) if seed else torch.arange(count)
    picks = torch.split(order[: round(share * count)], 32)
    return replace(task, calib=[(_taken(inputs, pick), targets[pick]) for pick in picks])


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {key: _joined([part[key] for part in parts]) for key in parts[0]}
    if isinstance(parts[0], tuple | list):
        return type(parts[0])(_joined(column) for column in zip(*parts, strict=True))
    width = max(part.shape[-1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[-1])) if part.dim() > 1 else part for part in parts])


def _taken(inputs: Any, pick: torch.Tensor) -> Any:
    if isinstance(inputs, dict):
        return {key: _taken(part, pick) for key, part in inputs.items()}
    return type(inputs)(_taken(part, pick) for part in inputs) if isinstance(inputs, tuple | list) else inputs[pick]


class Bench:
    """One network and the calibration examples of one seed; the engine is made when the first cell asks for it."""

    def __init__(self, name: str, task: Task, seed: int) -> None:
        self._name, self._task, self._seed = name, chosen(task, SHARE[name], seed), seed
        example = next(iter(self._task.calib))[0]
        self._layers = trace(self._task.model, example)
        section = EvaluateSection(cache_mib=1024, reconstruct=RECONSTRUCTION | FEWER.get(name, {}))
        self._evaluator = Evaluator(self._task, self._layers, section)
        start = time.process_time()
        self._float = self._evaluator.float_metrics("test")
        self._pass_s = time.process_time() - start
        self._evaluator.engine.apply(self._policy("int8:channel", "float"))  # gathers second moments

    def _policy(self, weight: str, activation: str) -> Policy:
        choice = parse_layer_policy(f"weight={weight},activation={activation}")
        return Policy({layer.name: choice for layer in self._layers})

    def reference(self) -> Cell:
        """Return the cell of the float network."""
        return Cell(self._name, "float", "float", "float", self._seed, 32.0, _figures(self._float), 0.0)

    def measure(self, weight: str, activation: str, column: str) -> Cell:
        """Return one cell."""
        policy = self._policy(weight + COLUMNS[column], activation)
        start, fidelity = time.process_time(), "reconstruct" if column == "reconstruct" else "ptq"
        if fidelity == "ptq":
            self._evaluator.engine.apply(policy)
        else:
            self._evaluator.reconstructed(policy)
        spent = time.process_time() - start
        figures = _figures(self._evaluator.metrics(policy, "test", fidelity))
        bits = average_bits(self._layers, policy)["bits_weight_avg"]
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
            named = [column for column in columns if (name, column) != ("digits", "reconstruct")]
            wanted = [(weight, activation, column) for weight, activation in ROWS[name] for column in named]
            left = [cell for cell in wanted if (name, *(cell if name != "digits" else (cell[0], A8, cell[2])), seed) not in done]
            if left:
                yield name, seed, left


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
