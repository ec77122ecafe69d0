"""Estimates of the sensitivities against measured ones: what they cost, how they rank the choices, what the plans from them lose.

Run: python -m benchmarks.sensitivity [--networks digits stories260k efficientnet_lite0 minilm] --site SITE --data DATA [--keep FOLDER]

Weights at 2, 3, 4 or 8 bits per channel (clipping by mse), activations at 4, 5, 6 or 8 bits per tensor (octav). A plan is the policy of the
least summed sensitivity whose weights take at most a share of the float bytes; its divergence is measured with the whole policy applied, on
the examples that all methods saw. Regret: that divergence less the one of the plan from measured sensitivities, so it may be negative.
Seconds are processor time of one thread with all weights quantized before, as a ratio to one float forward pass over the examples.
`--keep`: measured sensitivities are kept there and not measured again.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.sensitivity_networks import NETWORKS, Places, network
from quant_core.network.forward import forward
from quant_core.spec.size import float_bytes
from search.config.experiment import Experiment
from search.evaluation.adaptive import Spent
from search.evaluation.divergence import Reference
from search.evaluation.one_out import widest_choices
from search.evaluation.sensitivity import Method, Sensitivity
from search.problem.problem import FloatArray, Values
from search.searchers.solvers.ranking import best
from search.sweeps.context import SweepContext, open_context
from spaces.space import Space

METHODS: tuple[Method, ...] = ("forward", "gradient", "fisher", "auto")
BUDGETS = (0.1, 0.125, 0.15, 0.1875, 0.25)


@dataclass(frozen=True)
class Run:
    """One method on one network; `cpu` in float forward passes, `regrets` in nats per distribution, per budget."""

    network: str
    method: str
    passes: float
    cpu: float
    weights: float
    activations: float
    divergences: tuple[float, ...]
    regrets: tuple[float, ...]


def open_network(name: str, places: Places, examples: int) -> SweepContext:
    """Return a network with its space, all weights quantized."""
    experiment = Experiment.model_validate(
        {
            "task": {"name": name},
            "space": {
                "weight": {"bits": [2, 3, 4, 8], "granularity": "channel", "clipping": "mse"},
                "activation": {"bits": [4, 5, 6, 8], "granularity": "tensor", "clipping": "octav"},
            },
            "device": {"name": "counts", "objectives": ["error"], "budget": {"weight_bytes": "0.25 of float"}},
            "evaluate": {"cache_mib": 2048},
        }
    )
    context = open_context(experiment, network(name, places, examples))
    space = context.setup.space
    with torch.inference_mode():
        for k in range(max(space.cardinalities)):
            context.evaluator.engine.apply(space.policy([min(k, count - 1) for count in space.cardinalities]))
    return context


def float_seconds(context: SweepContext) -> tuple[float, Reference]:
    """Return the processor time of one float forward pass over the examples, the least of three, and its outputs."""
    engine, batches, least = context.evaluator.engine, context.evaluator.calib, float("inf")
    with torch.inference_mode():
        for _ in range(3):
            start = time.process_time()
            outputs = [forward(engine.restore(), inputs) for inputs in batches]
            least = min(least, time.process_time() - start)
    return least, Reference(batches, outputs, context.setup.task.logits_axis)


def scored(context: SweepContext, method: Method, keep: Path | None, name: str) -> tuple[tuple[FloatArray, ...], Spent, float]:
    """Return the rises of one method, what it spent, and its processor time in seconds."""
    path = None if keep is None or method != "forward" else keep / f"{name}.json"
    if path is not None and path.is_file():
        kept = json.loads(path.read_text())
        return tuple(np.array(row) for row in kept["rises"]), Spent(**kept["spent"]), kept["seconds"]
    setup, key = context.setup, f"benchmark-{time.time_ns()}"
    sensitivity = Sensitivity(context.evaluator.engine, setup.space, context.evaluator.calib, key, method, setup.task.logits_axis)
    start = time.process_time()
    rises = sensitivity()
    seconds = time.process_time() - start
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows, spent = [row.tolist() for row in rises], vars(sensitivity.spent)
        path.write_text(json.dumps({"rises": rows, "spent": spent, "seconds": seconds}))
    return rises, sensitivity.spent, seconds


def planned(context: SweepContext, rises: Sequence[FloatArray]) -> list[Values]:
    """Return per budget the policy of the least summed rise."""
    setup, plans = context.setup, []
    for share in BUDGETS:
        limits = {"weight_bytes": share * float_bytes(setup.layers)}
        plan = best(replace(context.problem({"error_valid": 0.0}), limits=limits), [row - row.min() for row in rises])
        assert plan is not None
        plans.append(plan)
    return plans


def plan_divergence(context: SweepContext, values: Values, reference: Reference) -> float:
    """Return the mean divergence of a whole policy from the float network, in nats."""
    with torch.inference_mode():
        model = context.evaluator.engine.apply(context.setup.space.policy(values))
        pairs = zip(reference.batches, reference.outputs, strict=True)
        return sum(reference.compare(forward(model, inputs), wanted)[0] for inputs, wanted in pairs) / reference.distributions


def correlation(space: Space, slot: str, rises: Sequence[FloatArray], measured: Sequence[FloatArray]) -> float:
    """Return Spearman's rank correlation over all choices of a slot but the widest."""
    widest = widest_choices(space)
    members = [d for d, dimension in enumerate(space.dimensions) if dimension.slot == slot]
    columns = [[float(rise) for d in members for rise in np.delete(rows[d], widest[d])] for rows in (rises, measured)]
    return float(spearmanr(columns[0], columns[1]).statistic)


def runs(name: str, places: Places, examples: int, keep: Path | None) -> list[Run]:
    """Return all methods on one network."""
    context = open_network(name, places, examples)
    unit, reference = float_seconds(context)
    space, rows = context.setup.space, []
    measured: tuple[FloatArray, ...] = ()
    baseline: Mapping[int, float] = {}
    for method in METHODS:
        rises, spent, seconds = scored(context, method, keep, name)
        measured = measured or rises
        divergences = tuple(plan_divergence(context, plan, reference) for plan in planned(context, rises))
        baseline = baseline or dict(enumerate(divergences))
        weights, activations = (correlation(space, slot, rises, measured) for slot in ("weight", "activation"))
        regrets = tuple(divergence - baseline[i] for i, divergence in enumerate(divergences))
        rows.append(Run(name, method, spent.equivalents, seconds / unit, weights, activations, divergences, regrets))
        print(line(rows[-1]), flush=True)
    return rows


def line(run: Run) -> str:
    """Return one row of the table; divergences and regrets in thousandths of a nat."""
    plans = " / ".join(f"{1000 * divergence:.3g}" for divergence in run.divergences)
    regrets = " / ".join(f"{1000 * regret:+.2g}" for regret in run.regrets)
    figures = f"{run.passes:.1f} | {run.cpu:.0f} | {run.weights:.3f} | {run.activations:.3f} | {plans} | {regrets}"
    return f"| {run.network} | {run.method} | {figures} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["digits"], choices=sorted(NETWORKS))
    parser.add_argument("--site", type=Path, default=Path("site"), help="folder of the packages that hold weights")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--keep", type=Path, default=None, help="folder of measured sensitivities")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | method | passes | processor time | Spearman weights | Spearman activations | divergence, mnat | regret, mnat |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.networks:
        runs(name, Places(arguments.site, arguments.data), arguments.examples, arguments.keep)


if __name__ == "__main__":
    main()
