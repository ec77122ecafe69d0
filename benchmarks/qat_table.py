"""The table of docs/qat.md: float, post-training, AdaRound and every QAT method, from 8 bits down to ternary and binary.

    python -m benchmarks.qat_table --task digits --seeds 3 --epochs 5 --write docs/qat.md

The first and the last layer stay at 8 bits, as in XNOR-Net, DoReFa and LSQ. Figures are those of the test split, mean and spread over
seeds: accuracy in percent, or with --language perplexity.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch

from quant_core.layer import Layer
from quant_core.policy import LayerPolicy, Policy, parse_layer_policy
from quant_core.qat import QatConfig
from quant_core.qat.prepare import finalize
from quant_core.trace import trace
from search import tasks
from search.evaluator import Evaluator, first_inputs, measure
from search.experiment import EvaluateSection
from search.qat_evaluator import trained
from search.task import Task

INTEGER_METHODS = ("ste", "lsq", "pact", "dorefa", "mad")
EDGES = parse_layer_policy("weight=int8:channel:mse,activation=int8:tensor:ema")
ROWS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("W8A8", "int8:channel:mse", "int8:tensor:mse", INTEGER_METHODS),
    ("W4A4", "int4:channel:mse", "int4:tensor:mse", INTEGER_METHODS),
    ("W3A3", "int3:channel:mse", "int3:tensor:mse", INTEGER_METHODS),
    ("W2A4", "int2:channel:mse", "int4:tensor:mse", INTEGER_METHODS),
    ("codebook of 4, A8", "kmeans2:tensor", "int8:tensor:ema", ("codebook",)),
    ("ternary, A8 (twn)", "ternary:twn:channel", "int8:tensor:ema", ("ste",)),
    ("ternary, A8 (ttq)", "ternary:ttq:channel", "int8:tensor:ema", ("ttq",)),
    ("binary, A8", "binary:channel", "int8:tensor:ema", ("ste", "binary")),
)
LANGUAGE_ROWS = tuple((f"W{bits} in groups of 32", f"int{bits}:group32:mse", "float", ("ste", "lsq")) for bits in (8, 4, 3, 2))
COLUMNS = ("PTQ", "AdaRound", "ste", "lsq", "pact", "dorefa", "mad", "ttq", "binary", "codebook")


def policy_of(layers: list[Layer], weight: str, activation: str) -> Policy:
    """Return the policy of a row: everything by the two specs, the first and the last layer at 8 bits."""
    inner = parse_layer_policy(f"weight={weight},activation={activation}")
    edges = {layers[0].name, layers[-1].name}
    return Policy({each.name: EDGES if each.name in edges else inner for each in layers})


def rounded(policy: Policy) -> Policy:
    """Return the policy with AdaRound for its integer weights."""
    return Policy({name: _adaround(each) for name, each in policy.items()})


def _adaround(each: LayerPolicy) -> LayerPolicy:
    return LayerPolicy(replace(each.weight, rounding="adaround"), each.activation) if each.weight.format == "int" else each


def percent(metrics: dict[str, float]) -> float:
    """Return the accuracy in percent."""
    return 100 * metrics["accuracy"]


def perplexity(metrics: dict[str, float]) -> float:
    """Return exp(loss)."""
    return math.exp(metrics["loss"])


def figures(
    task: Task, config: QatConfig, rows: Iterable[tuple[str, str, str, tuple[str, ...]]], figure: Callable[[dict[str, float]], float]
) -> dict[str, dict[str, float]]:
    """Return row -> column -> figure of the test split, of one seed; the row "float" has one column."""
    layers = trace(task.model, first_inputs(task))
    evaluator = Evaluator(task, layers, EvaluateSection())
    found = {"float": {"float": figure(evaluator.float_metrics("test"))}}
    for name, weight, activation, methods in rows:
        policy = policy_of(layers, weight, activation)
        row = {"PTQ": figure(evaluator.metrics(policy, "test"))}
        if rounded(policy) != policy and weight.startswith("int"):
            row["AdaRound"] = figure(evaluator.metrics(rounded(policy), "test"))
        for method in methods:
            start = time.perf_counter()
            model, _ = trained(task, policy, replace(config, method=method))
            row[method] = figure(measure(finalize(model), task.test, task))
            print(f"{name} {method}: {row[method]:.2f} in {time.perf_counter() - start:.0f} s", flush=True)
        found[name] = row
    return found


def markdown(seeds: list[dict[str, dict[str, float]]]) -> str:
    """Return the table: mean ± standard deviation over seeds."""
    used = [column for column in COLUMNS if any(column in row for row in seeds[0].values())]
    lines = ["| | " + " | ".join(used) + " |", "|---|" + "---|" * len(used)]
    for name in seeds[0]:
        if name == "float":
            continue
        cells = [_cell([seed[name][column] for seed in seeds]) if column in seeds[0][name] else "" for column in used]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return f"Float: {_cell([seed['float']['float'] for seed in seeds])}\n\n" + "\n".join(lines)


def _cell(values: list[float]) -> str:
    mean = statistics.fmean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


def write(path: Path, label: str, table: str) -> None:
    """Put the table between the markers `<!-- table LABEL -->` and `<!-- end LABEL -->` of a file."""
    text = path.read_text()
    begin, end = f"<!-- table {label} -->", f"<!-- end {label} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{path} has no markers {begin} ... {end}")
    path.write_text(f"{before}{begin}\n{table}\n{end}{after}")


def main() -> None:
    """Train, print and write the table of one task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--option", action="append", default=[], help="task option key=value (value as JSON)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--optimizer", default="sgd")
    parser.add_argument("--clip", type=float, default=0.0)
    parser.add_argument("--distill", type=float, default=0.0, help="share of the loss that is distillation from the float network")
    parser.add_argument("--language", action="store_true", help="the rows of a language model; the figure is perplexity")
    parser.add_argument("--rows", default="", help="names of rows, separated by semicolons; default all")
    parser.add_argument("--methods", default="", help="comma-separated; default all")
    parser.add_argument("--write", type=Path, help="file with the markers of the table")
    parser.add_argument("--label", default="", help="of the markers; default the task")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    options = {key: _value(text) for key, _, text in (option.partition("=") for option in arguments.option)}
    rows, methods = arguments.rows.split(";"), arguments.methods.split(",")
    chosen = [
        (name, weight, activation, tuple(each for each in every if not arguments.methods or each in methods))
        for name, weight, activation, every in (LANGUAGE_ROWS if arguments.language else ROWS)
        if not arguments.rows or name in rows
    ]
    start, seeds = time.perf_counter(), []
    for seed in range(arguments.seeds):
        task = tasks.load(arguments.task, {"seed": seed, **options})
        config = QatConfig(
            epochs=arguments.epochs,
            lr=arguments.lr,
            optimizer=arguments.optimizer,
            clip=arguments.clip,
            distill=arguments.distill,
            seed=seed,
        )
        seeds.append(figures(task, config, chosen, perplexity if arguments.language else percent))
        print(markdown(seeds), flush=True)
    print(f"{time.perf_counter() - start:.0f} s")
    if arguments.write:
        write(arguments.write, arguments.label or arguments.task, markdown(seeds))


def _value(text: str) -> object:
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value


if __name__ == "__main__":
    main()
