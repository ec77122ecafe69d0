"""Every searcher on a real network, at the same evaluations and the same budget: weights and latency on the VU9P bit-serial device.

Run: python -m benchmarks.real_tasks [--task digits] [--option KEY=VALUE ...] [--evaluations 150] [--searchers uniform random ...]

The space: weights 2-8 bits per channel, activations 4-8 bits per tensor. The budget: shares of the float weight
bytes and of the uniform 8 bit network's latency. One objective, the error; the last row is the best uniform
policy within the budget. Accuracies are of the policy with the least validation error (ties: loss); the hypervolume is that of
(error, latency) within the box of 1 and the budget; seconds are of the whole search, sensitivities and baselines included.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from search.experiment import Experiment
from search.launch import Ready, ready_for
from search.pareto import relative_hypervolume
from search.problem import Problem, Trial, Values
from search.searchers import build

SEARCHERS = ("uniform", "random", "tpe", "nsga2", "ilp", "haq", "haq+", "auto")


@dataclass(frozen=True)
class Row:
    """What one searcher found."""

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


def run(ready: Ready, problem: Problem, name: str, evaluations: int) -> Row:
    """Search with one searcher in memory and judge its best policy on the test split."""
    start = time.perf_counter()
    found: dict[Values, tuple[float, float]] = {}

    def evaluate(values: Values) -> tuple[float, float]:
        if values not in found:
            metrics = ready.evaluator(ready.setup.space.policy(values)).metrics
            found[values] = (metrics["error"], metrics["loss"])
        return found[values]

    searcher = build(name, problem, 0, evaluations)
    for values in problem.baselines[:evaluations]:
        searcher.tell(Trial(-1, values), evaluate(values)[:1])
    asked = min(len(problem.baselines), evaluations)
    while asked < evaluations and (trial := searcher.ask()):
        searcher.tell(trial, evaluate(trial.values)[:1])
        asked += 1
    seconds = time.perf_counter() - start
    able = [values for values in found if problem.feasible(values)]
    latency = problem.costs(np.asarray(able))["latency_s"]
    points = np.array([(found[values][0], cost) for values, cost in zip(able, latency, strict=True)])
    best = min(able, key=lambda values: found[tuple(values)])
    test = ready.evaluator.metrics(ready.setup.space.policy(best), "test")
    volume = relative_hypervolume(points, (1.0, problem.limits["latency_s"]))
    return Row(name, 1 - found[best][0], test["accuracy"], test["loss"], volume, seconds, len(found))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the searchers one after the other and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--option", action="append", default=[], help="a task option, KEY=VALUE")
    parser.add_argument("--valid", type=int, default=0, help="validation examples; 0: all")
    parser.add_argument("--weights", type=float, default=0.1, help="budget: share of the float weight bytes")
    parser.add_argument("--latency", type=float, default=0.4, help="budget: share of the uniform 8 bit latency")
    parser.add_argument("--evaluations", type=int, default=150)
    parser.add_argument("--searchers", nargs="+", default=list(SEARCHERS))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options = dict(option.split("=", 1) for option in given.option)
    ready = ready_for(experiment(given.task, options, given.valid, given.evaluations, given.weights, given.latency))
    reference = {split: ready.evaluator.float_metrics(split)["accuracy"] for split in ("valid", "test")}
    problem = ready.problem({"error_valid": 1 - reference["valid"]})
    known = ready.sensitivity()
    problem = replace(problem, sensitivity=lambda: known)
    print(
        f"float: valid {reference['valid']:.2%}, test {reference['test']:.2%}; {ready.sensitivity.evaluations} passes for sensitivities\n"
    )
    print("| searcher | valid | test | test loss | hypervolume | s | evaluated |\n|---|---|---|---|---|---|---|")
    for name in given.searchers:
        row = run(ready, problem, name, given.evaluations)
        figures = f"{row.valid:.2%} | {row.test:.2%} | {row.loss:.4f} | {row.hypervolume:.4f} | {row.seconds:.0f} | {row.evaluations}"
        print(f"| {row.searcher} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
