"""Published rules of bit allocation beside bitfront's, at equal true bits: metric, divergence from float, seconds of search.

Every rule (`benchmarks.peers_rules`) chooses from the same formats, solved by the same integer program, judged by the same evaluator on
the test split. Published rules see the errors of rounding to nearest, as their authors take them; what they choose is rounded like the
rest. Bits count scales. Seconds are processor time of one thread for a rule's losses and its solves; calibration and rounding,
which all share, are printed apart. `uniform` is the uniform policy of the most bits within the budget.

Every row is a line of the results file; a rule that is there is not measured again.

Run: python -m benchmarks.peers [--networks efficientnet_lite0 minilm_sts llama10m digits] [--data DATA]
"""

import argparse
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import stores
from benchmarks.peers_rules import RULES, Losses, nearest, reference_of
from quant_core.network.forward import forward
from quant_core.network.outputs import judged_output
from quant_core.spec.size import average_bits
from search.config.experiment import Experiment
from search.evaluation.divergence import Reference
from search.problem.problem import Problem, Values
from search.searchers.solvers.ranking import best
from search.sweeps.context import SweepContext, open_context

RESULTS = Path("benchmarks/results/peers.jsonl")
BUDGETS = (8.0, 4.5, 4.0, 3.5, 3.0)
UNIFORM, OURS = "uniform", "bitfront"
BITS = (2, 3, 4, 5, 6, 8)
SETTINGS: dict[str, tuple[dict[str, Any], str, str]] = {
    "digits": ({}, "channel:mse:gptq", "int8:tensor:mse"),
    "efficientnet_lite0": ({"calib_size": 32, "valid_size": 16, "test_size": 100, "batch_size": 50}, "channel:mse:gptq", "int8:tensor:mse"),
    "minilm_sts": ({"length": 32, "valid_size": 16, "test_size": 256, "batch_size": 32}, "channel:mse:gptq", "int8:tensor:mse"),
    "llama10m": ({"calib_size": 16, "valid_size": 8, "test_size": 32}, "group32:mse:gptq", "float"),
}
"""Options of the task, how weights are quantized, and activations."""


@dataclass(frozen=True)
class Row:
    """One rule under one budget, on the test split."""

    network: str
    rule: str
    budget: float
    bits: float
    metric: str
    figure: float
    loss: float
    kld: float
    seconds: float


def opened(name: str, data: str) -> SweepContext:
    """Return one network, its weights rounded to every choice."""
    options, weight, activation = SETTINGS[name]
    given = options | ({"path": data} if data and name in ("efficientnet_lite0", "minilm_sts") else {})
    section = {
        "task": {"name": name, "options": given},
        "space": {"weight": [f"int{bits}:{weight}" for bits in BITS], "activation": activation},
        "device": {"name": "counts", "objectives": ["loss"]},
        "evaluate": {"cache_mib": 3072, "sensitivity": "gradient"},
    }
    context = open_context(Experiment.model_validate(section))
    space = context.setup.space
    for k in range(len(BITS)):
        context.evaluator.engine.apply(space.policy([min(k, count - 1) for count in space.cardinalities]))
    return context


class Judge:
    """Metric, loss and divergence of policies on the test split; a policy is measured once."""

    def __init__(self, context: SweepContext) -> None:
        self._context, self._kept = context, dict[Values, tuple[dict[str, float], float]]()
        self.floats = context.evaluator.float_metrics("test")
        model = context.evaluator.engine.restore()
        with torch.inference_mode():
            wanted = torch.cat([forward(model, inputs) for inputs, _ in context.setup.task.test])
        self._reference = Reference([], [wanted], context.setup.task.logits_axis)

    def __call__(self, values: Values) -> tuple[dict[str, float], float]:
        """Return the metrics of a policy and its mean divergence from the float network."""
        if values not in self._kept:
            policy, outputs = self._context.setup.space.policy(values), list[Tensor]()
            model = self._context.evaluator.engine.apply(policy)
            hook = model.register_forward_hook(
                lambda _model, _args, out: outputs.append(judged_output(self._context.setup.task.model, out))
            )
            figures = self._context.evaluator.metrics(policy, "test", "ptq")
            hook.remove()
            divergence, _ = self._reference.compare(torch.cat(outputs), self._reference.outputs[0])
            self._kept[values] = figures, divergence / self._reference.distributions
        return self._kept[values]


def within(problem: Problem, bits: float, weights: int) -> Problem:
    """Return the problem under a budget of true bits per weight."""
    return replace(problem, limits={"weight_bytes": bits / 8 * weights})


def rows(name: str, data: str, done: Collection[str]) -> Iterator[list[Row]]:
    """Yield the rows of one rule after the other on one network, but for those of the rules in `done`."""
    start = time.process_time()
    context = opened(name, data)
    engine, space = context.evaluator.engine, context.setup.space
    print(f"{name}: loaded, calibrated and rounded in {time.process_time() - start:.0f} s", flush=True)
    reference, judge = reference_of(engine, context.evaluator.calib, context.setup.task.logits_axis), Judge(context)
    problem = context.problem({"error_valid": 0.0})
    weights = sum(layer.weights for layer in context.setup.layers if layer.calls and not layer.tied_to)
    limited = {bits: within(problem, bits, weights) for bits in BUDGETS}
    if UNIFORM not in done:
        uniform = {bits: [values for values in problem.baselines if limit.feasible(values)] for bits, limit in limited.items()}
        yield [_row(context, judge, name, UNIFORM, bits, points[-1], 0.0) for bits, points in uniform.items() if points]
    for rule, losses_of in RULES.items():
        if rule not in done:
            start = time.process_time()
            losses: Losses = losses_of(engine, space if rule == OURS else nearest(space), reference)
            picked = {bits: best(limit, [row - row.min() for row in losses]) for bits, limit in limited.items()}
            seconds = time.process_time() - start
            yield [_row(context, judge, name, rule, bits, values, seconds) for bits, values in picked.items() if values is not None]


def _row(context: SweepContext, judge: Judge, name: str, rule: str, budget: float, values: Values, seconds: float) -> Row:
    figures, divergence = judge(values)
    metric = next(iter(judge.floats))
    bits = average_bits(context.setup.layers, context.setup.space.policy(values))["bits_weight_avg"]
    return Row(name, rule, budget, bits, metric, figures[metric], figures["loss"], divergence, seconds)


def table(made: Sequence[Row]) -> str:
    """Return the rows as a table, by network and budget, the least divergence of a cell in bold."""
    lines = ["| network | budget | rule | true bits | metric | loss | divergence, mnat | CPU s |", "|---|---|---|---|---|---|---|---|"]
    for network in dict.fromkeys(row.network for row in made):
        for budget in BUDGETS:
            cell = [row for row in made if (row.network, row.budget) == (network, budget)]
            least = min((row.kld for row in cell), default=0.0)
            for row in cell:
                divergence = f"**{1000 * row.kld:.2f}**" if row.kld == least else f"{1000 * row.kld:.2f}"
                figures = f"{row.bits:.2f} | {row.metric} {row.figure:.4f} | {row.loss:.4f} | {divergence} | {row.seconds:.0f}"
                lines.append(f"| {network} | {budget:g} | {row.rule} | {figures} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the networks that are not in the results file, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["efficientnet_lite0"], choices=sorted(SETTINGS))
    parser.add_argument("--data", default="", help="folder of imagenet_sample and sts; default: BITFRONT_DATA")
    parser.add_argument("--results", type=Path, default=RESULTS, help="a line per row; a rule that is there is not measured again")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in parsed.networks:
        done = {row.rule for row in stores.recorded(parsed.results, Row) if row.network == name}
        for made in rows(name, parsed.data, done) if done < {UNIFORM, *RULES} else ():
            print(table(made), flush=True)
            for row in made:
                stores.append(parsed.results, row)
    print(table([row for row in stores.recorded(parsed.results, Row) if row.network in parsed.networks]))


if __name__ == "__main__":
    main()
