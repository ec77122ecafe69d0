"""Every searcher on a real network, at the same evaluations and the same budget: weights and latency on the VU9P bit-serial device.

Run: python -m benchmarks.real_tasks [--task digits] [--option KEY=VALUE ...] [--evaluations 150] [--seeds 1] [--searchers uniform ...]

The space: weights 2-8 bits per channel, activations 4-8 bits per tensor. The budget: shares of the float weight
bytes and of the uniform 8 bit network's latency. One objective, the error; the last row is the best uniform
policy within the budget. Accuracies are of the policy with the least validation error (ties: loss); the hypervolume is that of
(error, latency) within the box of 1 and the budget; seconds are processor time of the whole search, without the sensitivities, which all
share. With several seeds the float network is trained, and the searcher run, with each; figures are means, of the test accuracy with the
standard deviation.
"""

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from search.config.experiment import Experiment
from search.config.key_value import task_options
from search.problem.pareto import relative_hypervolume
from search.problem.problem import Problem, Trial, Values
from search.searchers import build
from search.sweeps.context import SweepContext, open_context

SEARCHERS = ("uniform", "random", "tpe", "nsga2", "ilp", "haq", "haq+", "auto")


@dataclass(frozen=True)
class Row:
    """The best policy of one searcher."""

    searcher: str
    valid: float
    test: float
    loss: float
    hypervolume: float
    seconds: float
    evaluations: int


def experiment(task: str, options: Mapping[str, object], valid: int, trials: int, weights: float, latency: float) -> Experiment:
    """Return the experiment that all searchers share."""
    return Experiment.model_validate(
        {
            "task": {"name": task, "options": dict(options)},
            "space": {
                "weight": {"bits": [2, 3, 4, 5, 6, 8], "granularity": "channel", "clipping": "mse"},
                "activation": {"bits": [4, 5, 6, 8], "granularity": "tensor", "clipping": "octav"},
            },
            "device": {
                "name": "vu9p-bitserial",
                "objectives": ["error"],
                "budget": {"weight_bytes": f"{weights} of float", "latency_s": f"{latency} of int8"},
            },
            "search": {"trials": trials},
            "evaluate": {"valid": valid},
        }
    )


def run(context: SweepContext, problem: Problem, name: str, evaluations: int, seed: int) -> Row:
    """Search with one searcher in memory and judge its best policy on the test split."""
    start = time.process_time()
    scores: dict[Values, tuple[float, float]] = {}

    def evaluate(values: Values) -> tuple[float, float]:
        if values not in scores:
            metrics = context.evaluator(context.setup.space.policy(values)).metrics
            scores[values] = (metrics["error"], metrics["loss"])
        return scores[values]

    searcher = build(name, problem, seed, evaluations)
    for values in problem.baselines[:evaluations]:
        searcher.tell(Trial(-1, values), evaluate(values)[:1])
    asked = min(len(problem.baselines), evaluations)
    while asked < evaluations and (trial := searcher.ask()):
        searcher.tell(trial, evaluate(trial.values)[:1])
        asked += 1
    seconds = time.process_time() - start
    feasible = [values for values in scores if problem.feasible(values)]
    latency = problem.costs(np.asarray(feasible))["latency_s"]
    points = np.array([(scores[values][0], cost) for values, cost in zip(feasible, latency, strict=True)])
    best = min(feasible, key=lambda values: scores[tuple(values)])
    test = context.evaluator.metrics(context.setup.space.policy(best), "test")
    volume = relative_hypervolume(points, (1.0, problem.limits["latency_s"]))
    return Row(name, 1 - scores[best][0], test["accuracy"], test["loss"], volume, seconds, len(scores))


def prepared(arguments: argparse.Namespace, options: Mapping[str, object]) -> tuple[SweepContext, Problem]:
    """Return one network, ready to be searched, with its sensitivities measured; prints what they and the float network are."""
    context = open_context(
        experiment(arguments.task, options, arguments.valid, arguments.evaluations, arguments.weights, arguments.latency)
    )
    reference = {split: context.evaluator.float_metrics(split)["accuracy"] for split in ("valid", "test")}
    problem = context.problem({"error_valid": 1 - reference["valid"]})
    start = time.process_time()
    estimates = context.sensitivity()
    took = f"{context.sensitivity.evaluations} passes for sensitivities in {time.process_time() - start:.0f} s"
    print(f"float: valid {reference['valid']:.2%}, test {reference['test']:.2%}; {took}\n", flush=True)
    return context, replace(problem, sensitivity=lambda: estimates)


def line(rows: Sequence[Row]) -> str:
    """Return one line of the table: means over the seeds, the spread of the test accuracy where there are several."""
    valid, loss, volume, seconds = (
        statistics.mean(getattr(row, name) for row in rows) for name in ("valid", "loss", "hypervolume", "seconds")
    )
    tests = [row.test for row in rows]
    spread = f" +- {statistics.stdev(tests):.2%}" if len(tests) > 1 else ""
    figures = f"{valid:.2%} | {statistics.mean(tests):.2%}{spread} | {loss:.4f} | {volume:.4f} | {seconds:.0f} | {rows[0].evaluations}"
    return f"| {rows[0].searcher} | {figures} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the searchers one after the other and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--option", action="append", default=[], help="a task option, KEY=VALUE")
    parser.add_argument("--valid", type=int, default=0, help="validation examples; 0: all")
    parser.add_argument("--weights", type=float, default=0.1, help="budget: share of the float weight bytes")
    parser.add_argument("--latency", type=float, default=0.4, help="budget: share of the uniform 8 bit latency")
    parser.add_argument("--evaluations", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--searchers", nargs="+", default=list(SEARCHERS))
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options = task_options(parsed.option)
    rows: dict[str, list[Row]] = {name: [] for name in parsed.searchers}
    for seed in range(parsed.seeds):
        context, problem = prepared(parsed, options | ({"seed": seed} if parsed.seeds > 1 else {}))
        for name in parsed.searchers:
            rows[name].append(run(context, problem, name, parsed.evaluations, seed))
            print(f"seed {seed}: {line(rows[name][-1:])}", flush=True)
    print("\n| searcher | valid | test | test loss | hypervolume | CPU s | evaluated |\n|---|---|---|---|---|---|---|")
    for name in parsed.searchers:
        print(line(rows[name]))


if __name__ == "__main__":
    main()
