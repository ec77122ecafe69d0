"""The peers' side-by-side figure: weights of the digits network searched at 3.0 and 2.5 TRUE bits on average.

True bits count scales and codebooks.

Run: python -m benchmarks.peers_bar [--seeds 5] [--trials 12] [--examples 128] [--json FILE]

Five float networks (seeds 0-4), activations at int8 per tensor. After the search the integer weights of the best policy are rounded by
AdaRound, which is kept where the validation loss falls. Per budget and seed: drop of test accuracy in points, test cross-entropy,
process CPU seconds of the whole (batch-norm folding, calibration, sensitivities, every trial, AdaRound), beside uniform policies of the
same formats. The bar: cross-entropy below 0.149 at 3.0 bits and 0.153 at 2.5 bits in at most 3 s of CPU (ModelOpt's and MCT's figures
on a network of the same shape and data; their own float mean was 96.67 %).
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from quant_core.spec.policy import Policy
from quant_core.spec.size import average_bits
from search.config.experiment import Experiment
from search.evaluation.evaluator import Evaluator
from search.evaluation.sensitivity import Sensitivity
from search.problem.problem import Values
from search.searchers import build
from search.sweeps.plan import build_problem
from search.sweeps.setup import prepare

LINEAR = [f"int{bits}:{how}" for bits in (2, 3, 4, 5, 6, 8) for how in ("tensor:mse", "channel:mse:fp16")]
CODEBOOKS = [f"kmeans{bits}:tensor" for bits in (2, 3, 4)]
SPACES = {"linear": LINEAR, "linear + codebooks": LINEAR + CODEBOOKS}
BUDGETS = (3.0, 2.5)


@dataclass(frozen=True)
class Row:
    """One search: what it was, and what came out on the test split."""

    space: str
    budget: float
    seed: int
    bits: float
    drop: float
    loss: float
    cpu_s: float
    float_accuracy: float


def experiment(seed: int, weight: Sequence[str], budget: float) -> Experiment:
    """Return the experiment of one search."""
    return Experiment.model_validate(
        {
            "task": {"name": "digits", "options": {"seed": seed}},
            "space": {"weight": list(weight), "activation": "int8:tensor:mse"},
            "device": {"name": "counts", "objectives": ["loss"], "budget": {"weight_bytes": f"{budget / 32} of float"}},
        }
    )


def search(space: str, budget: float, seed: int, trials: int, examples: int, how: str = "", last: bool = True) -> Row:
    """Run one search in memory, without a record, and judge its best policy on the test split.

    `how` is appended to the specs of integers, as in ":weighted:gptq"; `last`: AdaRound at the end, where it helps.
    """
    weight = [f"{text}{how}" if text.startswith("int") else text for text in SPACES[space]]
    setup = prepare(experiment(seed, weight, budget))
    start = time.process_time()
    evaluator = Evaluator(setup.task, setup.layers, setup.experiment.evaluate)
    calib, key = [torch.cat(evaluator.calib)[:examples]], f"{time.time_ns()}"  # never from disk: its cost counts
    sensitivity = Sensitivity(evaluator.engine, setup.space, calib, key, class_axis=1)
    problem = replace(build_problem(setup.plan), sensitivity=sensitivity)
    searcher = build("auto", problem, 0, trials)
    losses: dict[Values, float] = {}
    for _ in range(trials):
        trial = searcher.ask()
        if trial is None:
            break
        result = evaluator(setup.space.policy(trial.values))
        if problem.feasible(trial.values):
            losses[trial.values] = result.metrics["loss"]
        searcher.tell(trial, (result.metrics["loss"],))
    loss, best = min((loss, values) for values, loss in losses.items())
    policy = setup.space.policy(best)
    rounded = adarounded(policy) if last else policy
    if last and evaluator.metrics(rounded, "valid")["loss"] < loss:
        policy = rounded
    cpu = time.process_time() - start
    test, reference = evaluator.metrics(policy, "test"), evaluator.float_metrics("test")
    bits = average_bits(setup.layers, policy)["bits_weight_avg"]
    return Row(space, budget, seed, bits, 100 * (test["accuracy"] - reference["accuracy"]), test["loss"], cpu, reference["accuracy"])


def adarounded(policy: Policy) -> Policy:
    """Return the policy with AdaRound for the weights on a linear grid; size and cost are the same."""
    return Policy(
        {
            name: replace(choice, weight=replace(choice.weight, rounding="adaround")) if choice.weight.format == "int" else choice
            for name, choice in policy.items()
        }
    )


def uniform(text: str, seed: int) -> Row:
    """Judge one uniform policy."""
    setup = prepare(experiment(seed, [text, "int8:channel"], 32.0))
    evaluator = Evaluator(setup.task, setup.layers, setup.experiment.evaluate)
    policy = setup.space.policy([0] * len(setup.space.dimensions))
    test, reference = evaluator.metrics(policy, "test"), evaluator.float_metrics("test")
    bits = average_bits(setup.layers, policy)["bits_weight_avg"]
    return Row(
        f"uniform {text}", bits, seed, bits, 100 * (test["accuracy"] - reference["accuracy"]), test["loss"], 0.0, reference["accuracy"]
    )


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, mean and spread over the seeds."""
    lines = ["| weights | budget | true bits | drop (points) | test cross-entropy | CPU s |", "|---|---|---|---|---|---|"]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.space, "-" if row.space.startswith("uniform") else f"{row.budget}"), []).append(row)
    for (space, budget), group in groups.items():
        drops, losses = [row.drop for row in group], [row.loss for row in group]
        spread = f" +- {statistics.stdev(drops):.2f}" if len(group) > 1 else ""
        bits, cpu = statistics.mean(row.bits for row in group), statistics.mean(row.cpu_s for row in group)
        lines.append(
            f"| {space} | {budget} | {bits:.2f} | {statistics.mean(drops):+.2f}{spread} | {statistics.mean(losses):.3f} | {cpu:.1f} |"
        )
    floats = statistics.mean({row.seed: row.float_accuracy for row in rows}.values())
    return "\n".join([*lines, "", f"Float mean {floats:.2%} over {len({row.seed for row in rows})} seeds."])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the searches and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--examples", type=int, default=128, help="calibration examples that the sensitivities are measured on")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [uniform(text, seed) for text in ("int2:tensor:mse", "int3:tensor:mse", "kmeans2:tensor") for seed in range(options.seeds)]
    rows += [
        search(space, budget, seed, options.trials, options.examples)
        for space in SPACES
        for budget in BUDGETS
        for seed in range(options.seeds)
    ]
    print(table(rows))
    if options.json:
        dumped: list[Mapping[str, object]] = [vars(row) for row in rows]
        options.json.write_text(json.dumps(dumped, indent=1) + "\n")


if __name__ == "__main__":
    main()
