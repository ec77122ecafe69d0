"""Accuracy before and after quantization-aware training: the tables of docs/qat-digits.md, qat-fashion-mnist.md and qat-language.md.

    python -m benchmarks.qat_table --task digits --seeds 3 --epochs 5 --write docs/qat-digits.md
    python -m benchmarks.qat_table --task fashion_mnist --networks resnet8,mobilenetv2,dscnn --option seed=0 --option train_size=2560

Every figure is a line of `--store` as soon as it is measured, and is not measured again: an interrupted run resumes,
and a run with more rows, methods or seeds adds to the table. `--tables` runs nothing. The first and the last layer stay at 8 bits, as in
XNOR-Net, DoReFa and LSQ. Figures are those of the test split: accuracy in percent, or with --language perplexity.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.qat_table_report import Cell, section, write
from quant_core.network.trace import trace
from quant_core.qat import QatConfig
from quant_core.qat.prepare import finalize
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy, Policy, parse_layer_policy
from search import tasks
from search.config.evaluation import EvaluateSection
from search.config.key_value import task_options
from search.evaluation.evaluator import Evaluator
from search.evaluation.measure import first_inputs, measure
from search.evaluation.training import trained
from search.tasks.task import Task

Row = tuple[str, str, str, tuple[str, ...]]
INTEGER_METHODS = ("ste", "lsq", "pact", "dorefa", "mad")
EDGES = parse_layer_policy("weight=int8:channel:mse,activation=int8:tensor:ema")
ROWS: tuple[Row, ...] = (
    ("W8A8", "int8:channel:mse", "int8:tensor:mse", INTEGER_METHODS),
    ("W4A4", "int4:channel:mse", "int4:tensor:mse", INTEGER_METHODS),
    ("W3A3", "int3:channel:mse", "int3:tensor:mse", INTEGER_METHODS),
    ("W2A4", "int2:channel:mse", "int4:tensor:mse", INTEGER_METHODS),
    ("codebook of 4, A8", "kmeans2:tensor", "int8:tensor:ema", ("codebook",)),
    ("ternary, A8 (twn)", "ternary:twn:channel", "int8:tensor:ema", ("ste",)),
    ("ternary, A8 (ttq)", "ternary:ttq:channel", "int8:tensor:ema", ("ttq",)),
    ("binary, A8", "binary:channel", "int8:tensor:ema", ("ste", "binary")),
)
LANGUAGE_ROWS: tuple[Row, ...] = tuple(
    (f"W{bits} in groups of 32", f"int{bits}:group32:mse", "float", ("ste", "lsq")) for bits in (8, 4, 3, 2)
)


def policy_of(layers: list[Layer], weight: str, activation: str) -> Policy:
    """Return the policy of a row: everything by the two specs, the first and the last layer at 8 bits."""
    inner = parse_layer_policy(f"weight={weight},activation={activation}")
    edges = {layers[0].name, layers[-1].name}
    return Policy({layer.name: EDGES if layer.name in edges else inner for layer in layers})


def rounded(policy: Policy) -> Policy:
    """Return the policy with AdaRound for its integer weights."""
    return Policy({name: _adaround(choice) for name, choice in policy.items()})


def _adaround(choice: LayerPolicy) -> LayerPolicy:
    return LayerPolicy(replace(choice.weight, rounding="adaround"), choice.activation) if choice.weight.format == "int" else choice


def percent(metrics: dict[str, float]) -> float:
    """Return the accuracy in percent."""
    return 100 * metrics["accuracy"]


def perplexity(metrics: dict[str, float]) -> float:
    """Return exp(loss)."""
    return math.exp(metrics["loss"])


Measurement = Callable[[], dict[str, float]]


def measurements(task: Task, config: QatConfig, rows: Sequence[Row]) -> Iterator[tuple[str, str, Measurement]]:
    """Yield (row, column, its measurement on the test split), the row "float" first."""
    layers = trace(task.model, first_inputs(task))
    evaluator = Evaluator(task, layers, EvaluateSection())

    def train(policy: Policy, method: str) -> dict[str, float]:
        model, _ = trained(task, policy, replace(config, method=method))
        return measure(finalize(model), task.test, task)

    yield "float", "float", partial(evaluator.float_metrics, "test")
    for name, weight, activation, methods in rows:
        policy = policy_of(layers, weight, activation)
        yield name, "PTQ", partial(evaluator.metrics, policy, "test")
        if weight.startswith("int"):
            yield name, "AdaRound", partial(evaluator.metrics, rounded(policy), "test")
        for method in methods:
            yield name, method, partial(train, policy, method)


def read(store: Path) -> list[Cell]:
    """Return the cells of a file of lines; a line that a kill cut short is left out."""
    cells = []
    for line in store.read_text().splitlines() if store.exists() else ():
        try:
            cells.append(Cell(**json.loads(line)))
        except json.JSONDecodeError:
            print(f"{store}: a line that was cut short is left out", flush=True)
    return cells


def add(store: Path, cell: Cell) -> None:
    """Add a line to the file; a line that a kill cut short is ended first."""
    with store.open("a+b") as file:
        file.seek(max(file.tell() - 1, 0))
        broken = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * broken + json.dumps(asdict(cell)).encode() + b"\n")


def fill(
    store: Path, label: str, setting: str, task: Task, config: QatConfig, rows: Sequence[Row], *, float_seed: int, language: bool
) -> None:
    """Measure the cells that `store` lacks of one network and seed of training, each cell written at once."""
    done = {(cell.label, cell.setting, cell.seed, cell.row, cell.column) for cell in read(store)}
    for row, column, find in measurements(task, config, rows):
        seed = float_seed if column in ("float", "PTQ", "AdaRound") else config.seed
        if (label, setting, seed, row, column) in done:
            continue
        start = time.process_time()
        figure = (perplexity if language else percent)(find())
        cell = Cell(label, setting, seed, row, column, figure, round(time.process_time() - start, 1))
        add(store, cell)
        print(f"{label}, seed {seed}, {row} {column}: {figure:.2f} in {cell.seconds:.0f} s of CPU time", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train for the missing cells, print the tables, and write them."""
    parsed = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    options = task_options(parsed.option)
    config = QatConfig(
        epochs=parsed.epochs,
        lr=parsed.lr,
        optimizer=parsed.optimizer,
        clip=parsed.clip,
        distill=parsed.distill,
    )
    networks = parsed.networks.split(",") if parsed.networks else [""]
    setting = json.dumps({"options": options, **{k: v for k, v in asdict(config).items() if k not in ("method", "seed")}}, sort_keys=True)
    parsed.store.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(0 if parsed.tables else parsed.seeds):
        for network in networks:
            chosen = {"seed": seed, **options, **({"network": network} if network else {})}
            task = tasks.load(parsed.task, chosen)
            fill(
                parsed.store,
                f"{parsed.task} {network}".strip(),
                setting,
                task,
                replace(config, seed=seed),
                _chosen(parsed),
                float_seed=int(str(chosen["seed"])),
                language=parsed.language,
            )
    for network in networks:
        label = f"{parsed.task} {network}".strip()
        cells = [cell for cell in read(parsed.store) if (cell.label, cell.setting) == (label, setting)]
        text = section(sorted(cells, key=_place), judged=not parsed.language)
        print(f"\n{label}\n\n{text}", flush=True)
        if parsed.write:
            write(parsed.write, f"{label} {parsed.suffix}".strip(), text)


def _place(cell: Cell) -> int:
    """Return where the row of a cell stands in its table; float comes first."""
    names = [name for name, *_ in (*ROWS, *LANGUAGE_ROWS)]
    return names.index(cell.row) if cell.row in names else -1


def _chosen(arguments: argparse.Namespace) -> list[Row]:
    """Return the rows and methods that were asked for."""
    names, methods = arguments.rows.split(";"), arguments.methods.split(",")
    return [
        (name, weight, activation, tuple(method for method in every if not arguments.methods or method in methods))
        for name, weight, activation, every in (LANGUAGE_ROWS if arguments.language else ROWS)
        if not arguments.rows or name in names
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qat_table", description=__doc__)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--networks", default="", help="comma-separated; each is the task's option `network`")
    parser.add_argument(
        "--option", action="append", default=[], help="task option key=value (value as JSON); seed=0 keeps one float network"
    )
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the training, and of the float network if no option says otherwise")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--optimizer", default="sgd")
    parser.add_argument("--clip", type=float, default=0.0)
    parser.add_argument("--distill", type=float, default=0.0, help="share of the loss that is distillation from the float network")
    parser.add_argument("--language", action="store_true", help="the rows of a language model; the figure is perplexity")
    parser.add_argument("--rows", default="", help="names of rows, separated by semicolons; default all")
    parser.add_argument("--methods", default="", help="comma-separated; default all")
    parser.add_argument("--store", type=Path, default=Path("benchmarks/results/qat.jsonl"), help="file of the measured cells")
    parser.add_argument("--tables", action="store_true", help="run nothing; show and write the figures measured under these settings")
    parser.add_argument("--write", type=Path, help="file with the markers of the tables")
    parser.add_argument("--suffix", default="", help="end of the markers' names, where a file has tables of several settings")
    return parser


if __name__ == "__main__":
    main()
