"""Is a search ever worse than the best uniform policy, or ever over its budget? Every searcher at budgets of equal true bits.

A budget is what the uniform policy of some weight bits costs, with all scales: stored bytes, and on digits the latency too. The best
uniform policy within it is the one of the least validation loss. A sweep tells every searcher the uniform policies, then evaluates its
proposals; its answer is the policy of the least validation loss within the budget. Counted are, per searcher:

- answers that are worse than the best uniform policy on the validation split (by the loss that the searcher sees);
- searchers whose own proposals, without the uniform policies, hold none that good;
- answers that are worse on the test split by more than two standard errors of the paired difference of the losses, example by example;
- proposals over the budget, by the exact bytes of the policy's formats.

Every run is a line of the results file; a run that is there is not made again. EfficientNet-Lite0, MiniLM and the Llama take few examples,
proposals and seeds: an evaluation takes seconds there.

Run: python -m benchmarks.uniform [--networks digits llama10m minilm efficientnet_lite0] [--seeds N] [--data DATA]
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks import stores
from benchmarks.uniform_networks import SETTINGS, Setting, example_losses, experiment
from quant_core.spec.policy import Policy
from quant_core.spec.size import weight_bytes
from search.problem.problem import FloatArray, Problem, Trial, Values
from search.searchers import SEARCHERS, build
from search.sweeps.context import SweepContext, open_context

RESULTS = Path("benchmarks/results/uniform.jsonl")
CONTROLS = ("uniform", "random")
"""Not searched with: the baseline itself, and the lower bound of every comparison."""
SURE = 2.0
"""Standard errors of a paired difference on the test split that count as a loss."""


@dataclass(frozen=True)
class Run:
    """One searcher under one budget; losses are means over the validation split, bits those of all searched weights.

    Attributes:
        budget: weight bits of the uniform policy that gives it.
        own: the least loss of the searcher's own proposals within the budget; infinity where it has none.
        answer: the least loss of everything that was evaluated within the budget.
        uniform: that of the best uniform policy.
        over: proposals over the budget.
        difference, error: on the test split, the answer's loss less the uniform policy's, and its standard error.
    """

    network: str
    seed: int
    budget: int
    searcher: str
    proposals: int
    over: int
    own: float
    answer: float
    uniform: float
    bits: float
    uniform_bits: float
    difference: float
    error: float

    @property
    def key(self) -> tuple[str, int, int, str]:
        """What was run."""
        return self.network, self.seed, self.budget, self.searcher


@dataclass(eq=False)
class Bench:
    """One network, ready to be searched under any budget; a policy is measured once, whoever proposes it."""

    name: str
    setting: Setting
    context: SweepContext
    problem: Problem
    losses: dict[Values, float] = field(default_factory=dict)
    tests: dict[Values, FloatArray] = field(default_factory=dict)

    def policy(self, values: Values) -> Policy:
        """Return the policy of a point."""
        return self.context.setup.space.policy(values)

    def loss(self, values: Values) -> float:
        """Return the loss on the validation split."""
        if values not in self.losses:
            self.losses[values] = self.context.evaluator.metrics(self.policy(values), "valid")["loss"]
        return self.losses[values]

    def test(self, values: Values) -> FloatArray:
        """Return the loss of every example of the test split."""
        if values not in self.tests:
            self.tests[values] = example_losses(self.context, self.policy(values))
        return self.tests[values]

    def bytes(self, values: Values) -> float:
        """Return the stored bytes of the weights, from the formats alone."""
        return weight_bytes(self.context.setup.layers, self.policy(values))

    @property
    def weights(self) -> int:
        """How many weights there are."""
        return sum(layer.weights for layer in self.context.setup.layers if not layer.tied_to)

    def under(self, bits: int) -> Problem:
        """Return the problem under the budget of the uniform policy of some weight bits."""
        at = next(values for values in self.problem.baselines if _bits(self.policy(values)) == bits)
        costs = self.problem.costs_of(at)
        return replace(self.problem, limits={metric: costs[metric] for metric in self.setting.metrics})


def opened(name: str, data: str, seed: int) -> Bench:
    """Return one network with its sensitivities measured."""
    setting = SETTINGS[name]
    context = open_context(experiment(name, setting, data, seed))
    problem = context.problem({"error_valid": context.evaluator.float_metrics("valid")["error"]})
    rises = context.sensitivity()
    return Bench(name, setting, context, replace(problem, sensitivity=lambda: rises))


def searched(bench: Bench, searcher: str, budget: int, seed: int, proposals: int) -> Run:
    """Run one searcher under one budget, the uniform policies told first as in a sweep."""
    problem = bench.under(budget)
    uniform = [values for values in problem.baselines if problem.feasible(values)]
    made: list[Values] = []
    seeker = build(searcher, problem, seed, len(problem.baselines) + proposals)
    for values in problem.baselines:
        seeker.tell(Trial(-1, values), (bench.loss(values),))
    while len(made) < proposals and (trial := seeker.ask()) is not None:
        made.append(trial.values)
        seeker.tell(trial, (bench.loss(trial.values),))
    within = [values for values in made if problem.feasible(values)]
    limit = problem.limits["weight_bytes"]
    over = sum(not problem.feasible(values) or bench.bytes(values) > limit * (1 + 1e-9) for values in made)
    base, answer = min(uniform, key=bench.loss), min([*uniform, *within], key=bench.loss)
    difference, error = paired(bench.test(answer) - bench.test(base))
    own = min(map(bench.loss, within), default=float("inf"))
    bits = [8 * bench.bytes(values) / bench.weights for values in (answer, base)]
    figures = (own, bench.loss(answer), bench.loss(base), *bits, difference, error)
    return Run(bench.name, seed, budget, searcher, len(made), over, *figures)


def paired(differences: FloatArray) -> tuple[float, float]:
    """Return the mean of paired differences [N] and its standard error."""
    return float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(len(differences)))


def _bits(policy: Policy) -> float:
    return max(choice.weight.bits for choice in policy.values())


def report(runs: Sequence[Run]) -> str:
    """Return the table: per network and searcher how often it was worse or over."""
    lines = [
        "| network | searcher | runs | worse on valid | own proposals worse | worse on test | better on test | over budget | loss ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.network, run.searcher), []).append(run)
    for (network, searcher), group in groups.items():
        lines.append(f"| {network} | {searcher} | {len(group)} | {' | '.join(map(str, counts(group)))} | {_ratio(group):.3f} |")
    return "\n".join([*lines, f"| all | | {len(runs)} | {' | '.join(map(str, counts(runs)))} | {_ratio(runs):.3f} |"])


def counts(runs: Sequence[Run]) -> tuple[int, int, int, int, int]:
    """Return how many answers are worse on valid, own proposals worse, answers worse on test, better on test, and proposals over."""
    return (
        sum(run.answer > run.uniform for run in runs),
        sum(run.proposals > 0 and run.own > run.uniform for run in runs),
        sum(run.difference > SURE * run.error for run in runs),
        sum(run.difference < -SURE * run.error for run in runs),
        sum(run.over for run in runs),
    )


def _ratio(runs: Sequence[Run]) -> float:
    """Return the geometric mean of the answer's validation loss over that of the uniform policy."""
    return float(np.exp(np.mean([np.log(run.answer / run.uniform) for run in runs])))


def run_all(names: Sequence[str], data: str, path: Path, seeds: int | None = None) -> list[Run]:
    """Make the runs that are not in the results file, which is added to, and return all of it."""
    runs = stores.recorded(path, Run)
    done = {run.key for run in runs}
    searchers = [name for name in SEARCHERS if name not in CONTROLS]
    for name in names:
        setting = SETTINGS[name]
        for seed in range(seeds or setting.seeds):
            asked = [(budget, searcher) for budget in setting.budgets for searcher in searchers]
            left = [(budget, searcher) for budget, searcher in asked if (name, seed, budget, searcher) not in done]
            bench = opened(name, data, seed) if left else None
            for budget, searcher in left:
                assert bench is not None
                runs.append(searched(bench, searcher, budget, seed, setting.proposals))
                stores.append(path, runs[-1])
                print(name, seed, budget, searcher, f"{runs[-1].answer / runs[-1].uniform:.3f}", flush=True)
    return [run for run in runs if run.network in names]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.uniform", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["digits"], choices=sorted(SETTINGS))
    parser.add_argument("--data", default="", help="folder of imagenet_sample and sts; default: BITFRONT_DATA")
    parser.add_argument("--seeds", type=int, default=None, help="default: as many as the network's setting says")
    parser.add_argument("--results", type=Path, default=RESULTS, help="a line per run; those that are there are not made again")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(report(run_all(parsed.networks, parsed.data, parsed.results, parsed.seeds)))


if __name__ == "__main__":
    main()
