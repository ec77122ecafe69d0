"""How many validation examples a sweep needs for the same loss, with and without the scheduler `race`.

One network under one budget of true bits: `auto` at equal seeds, all trials to their end, then with races at a few confidences. The loss
is that of the best policy within the budget, measured on all validation examples; examples are all that evaluations ran through, those of
the uniform policies too. The two runs of a pair are compared at the loss that both reach: the greater of their last ones.

A policy that ran to its end is not computed again, it is replayed batch by batch. Every run is a line of the results file; one that is
there is not made again.

Run: python -m benchmarks.race [--networks efficientnet_lite0 mobilenetv2] [--seeds 3] [--data DATA]
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import stores
from quant_core.spec.policy import Policy
from search.config.experiment import Experiment
from search.evaluation.evaluator import Evaluator
from search.evaluation.racing import Incumbent, OutrunError, Watch
from search.problem.problem import Problem
from search.records.record import TrialRecord
from search.records.result import Result
from search.searchers import build
from search.sweeps.context import SweepContext, open_context
from search.sweeps.race import Race
from search.sweeps.sweep import Sweep
from search.tasks.efficientnet_lite0 import efficientnet_lite0
from search.tasks.fashion_mnist import fashion_mnist
from search.tasks.metrics.state import Judged
from search.tasks.task import Task

RESULTS, PAGE = Path("benchmarks/results/race.jsonl"), Path("docs/racing.md")
MARKER = "<!-- tables of benchmarks.race -->"
BITS = (2, 3, 4, 5, 6, 8)
BUDGETS = {"efficientnet_lite0": 3.7, "mobilenetv2": 3.7}
RACES: tuple[tuple[float | None, int], ...] = ((None, 1), (0.95, 1), (0.8, 1), (0.0, 1), (0.0, 3))
"""Confidence, and how many times `--trials`. None: all trials run to their end; 0: what is worse on the examples so far is stopped."""
TRIALS = 60


@dataclass(frozen=True)
class Run:
    """One sweep; `curve` has a pair (examples so far, least loss) for every trial that lowered the loss."""

    network: str
    seed: int
    budget: float
    confidence: float | None
    trials: int
    stopped: int
    examples: int
    valid: int
    curve: Sequence[Sequence[float]]

    @property
    def loss(self) -> float:
        """The least loss."""
        return self.curve[-1][1]

    def needed(self, loss: float) -> float:
        """Return how many examples were needed for a loss."""
        return next((examples for examples, reached in self.curve if reached <= loss), math.inf)


def task(name: str, data: str) -> Task:
    """Return a network whose validation split comes in 8 or 40 batches."""
    if name == "efficientnet_lite0":
        return efficientnet_lite0(data or None, calib_size=32, valid_size=152, test_size=19, batch_size=19)
    made = fashion_mnist(data or None, network=name, calib_size=256, test_size=500)
    batches = [(x, y) for inputs, targets in made.valid for x, y in zip(inputs.split(125), targets.split(125), strict=True)]
    return replace(made, valid=batches)


def opened(name: str, data: str) -> SweepContext:
    """Return one network with its choices."""
    weight = [f"int{bits}:channel:mse" for bits in BITS]
    section = {
        "task": {"name": name},
        "space": {"weight": weight, "activation": "int8:tensor:mse"},
        "device": {"name": "counts", "objectives": ["loss"]},
        "evaluate": {"cache_mib": 2048, "sensitivity": "gradient"},
    }
    return open_context(Experiment.model_validate(section), task(name, data))


@dataclass(eq=False)
class Recording:
    """Passes an evaluation's batches on to a watch, and keeps them."""

    to: Watch | None
    batches: list[tuple[Judged, Tensor | None, Mapping[str, float]]] = field(default_factory=list)

    def add(self, batch: Judged, scores: Tensor | None, figures: Callable[[], Mapping[str, float]]) -> None:
        """Keep a batch."""
        self.batches.append((batch, scores, figures()))
        if self.to is not None:
            self.to.add(batch, scores, figures)


class Replaying:
    """An evaluator that computes no policy to its end twice."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator, self._kept = evaluator, dict[Policy, tuple[Result, Recording]]()

    def watch(self, objective: str, incumbent: Incumbent | None, confidence: float) -> Watch:
        """Return the evaluator's watch."""
        return self._evaluator.watch(objective, incumbent, confidence)

    def __call__(self, policy: Policy, fidelity: str = "ptq", after: Sequence[Policy] = (), watch: Watch | None = None) -> Result:
        """Evaluate a policy, or replay its evaluation."""
        if policy in self._kept:
            return self._replayed(*self._kept[policy], watch)
        recording = Recording(watch)
        result = self._evaluator(policy, fidelity, after, recording)  # type: ignore[arg-type]
        if result.ok:
            self._kept[policy] = result, recording
        return result

    def _replayed(self, result: Result, recording: Recording, watch: Watch | None) -> Result:
        try:
            for batch, scores, figures in recording.batches if watch else ():
                watch.add(batch, scores, lambda figures=figures: figures)  # type: ignore[union-attr, misc]
        except OutrunError as stop:
            return stop.of(result)
        return result


class Silent:
    """A record that keeps nothing."""

    def record(self, trial: TrialRecord) -> None:
        """Keep nothing."""

    def update_front(self, numbers: Sequence[int], knee: int, hypervolume: float) -> None:
        """Keep nothing."""


def searched(context: SweepContext, problem: Problem, evaluator: Replaying, run: Run) -> Run:
    """Make one sweep."""
    searcher = build("auto", problem, run.seed, run.trials, {})
    sweep = Sweep(context.setup.space, problem, searcher, "auto", run.trials, ("loss",), (10.0,), Silent())
    race = Race(sweep, evaluator, run.confidence) if run.confidence is not None else None
    examples, curve = 0, list[tuple[float, float]]()
    while (evaluation := sweep.next()) is not None:
        result = race(evaluation) if race else evaluator(evaluation.policy)
        sweep.finish(evaluation.number, result)
        examples += result.examples
        print(f"trial {evaluation.number}: {result.status}, {result.examples} examples, {result.seconds:.1f} s", flush=True)
        within = result.ok and problem.feasible(evaluation.trial.values)
        if within and (not curve or result.metrics["loss"] < curve[-1][1]):
            curve.append((examples, result.metrics["loss"]))
    return replace(run, stopped=sweep.stopped, examples=examples, curve=curve)


def table(runs: Sequence[Run]) -> str:
    """Return a line per race, beside the sweep without races of the same seed."""
    lines = [
        "| network | seed | confidence | stopped | examples | without races | loss | without races | examples for the same loss | share |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    plain = {(run.network, run.seed): run for run in runs if run.confidence is None}
    for run in sorted(runs, key=lambda run: (run.network, run.seed)):
        if run.confidence is None:
            continue
        other = plain[run.network, run.seed]
        loss = max(run.loss, other.loss)
        needed = run.needed(loss), other.needed(loss)
        whole = f"{run.examples:,} | {other.examples:,} | {run.loss:.4f} | {other.loss:.4f} | {needed[0]:,.0f} / {needed[1]:,.0f}"
        counts = f"{run.stopped} of {run.trials}"
        lines.append(f"| {run.network} | {run.seed} | {run.confidence:g} | {counts} | {whole} | {needed[0] / needed[1]:.2f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs that are not in the results file, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.race", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=sorted(BUDGETS), choices=sorted(BUDGETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--data", default="", help="folder of imagenet_sample and fashion_mnist; default: BITFRONT_DATA")
    parser.add_argument("--results", type=Path, default=RESULTS, help="a line per run; those that are there are not made again")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in parsed.networks:
        done = {(run.seed, run.confidence, run.trials) for run in stores.recorded(parsed.results, Run) if run.network == name}
        wanted = [(seed, confidence, times * parsed.trials) for seed in range(parsed.seeds) for confidence, times in RACES]
        if set(wanted) <= done:
            continue
        context = opened(name, parsed.data)
        evaluator = Replaying(context.evaluator)
        whole = context.problem({"error_valid": context.evaluator.float_metrics()["error"]})
        weights = sum(layer.weights for layer in context.setup.layers if layer.calls and not layer.tied_to)
        problem = replace(whole, limits={"weight_bytes": BUDGETS[name] / 8 * weights})
        valid = int(context.evaluator.counts("valid")["examples_valid"])
        for seed, confidence, trials in wanted:
            if (seed, confidence, trials) not in done:
                run = searched(context, problem, evaluator, Run(name, seed, BUDGETS[name], confidence, trials, 0, 0, valid, ()))
                stores.append(parsed.results, run)
                print(name, seed, confidence, trials, run.stopped, run.examples, f"{run.loss:.4f}", flush=True)
    print(table(stores.recorded(parsed.results, Run)))
    if parsed.results == RESULTS:
        stores.write_tables(PAGE, MARKER, table(stores.recorded(RESULTS, Run)))


if __name__ == "__main__":
    main()
