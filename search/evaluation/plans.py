"""Whole plans measured: which of several tables of sensitivities gives the policies that stay nearer to the float network."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from quant_core.network.forward import forward
from quant_core.ptq.engine import PostTraining
from search.evaluation.divergence import Reference
from search.problem.problem import FloatArray, Problem, Values
from search.searchers.solvers.ranking import best
from spaces.space import Space

SHARES = (0.35, 0.7, 0.2, 0.5, 0.1)
"""Budgets that plans are compared at, as shares of the way from the fewest bits to the most."""
TINY = 1e-12
Table = Sequence[FloatArray]


def plans(space: Space, tables: Sequence[Table], costs: Sequence[FloatArray], budgets: int) -> list[list[Values]]:
    """Return, per budget, the policy of the least summed rise by every table.

    The budget holds for the bits of the weights; where no weight has a choice, for those of the activations.

    Args:
        space: what may be chosen.
        tables: of rises, per dimension [K_d].
        costs: per dimension [K_d], bits.
        budgets: how many of `SHARES` to take.
    """
    slots = [dimension.slot for dimension in space.dimensions]
    slot = "weight" if "weight" in slots else slots[0]
    rows = tuple(cost if name == slot else np.zeros_like(cost) for cost, name in zip(costs, slots, strict=True))
    low, high = (sum(float(end(row)) for row in rows) for end in (np.min, np.max))
    sites = tuple((d,) for d in range(len(rows)))
    chosen = []
    for share in SHARES[:budgets]:
        limits = {"bits": low + share * (high - low)}
        problem = Problem(space.cardinalities, ("error",), sites, {"bits": rows}, limits=limits)
        answers = [best(problem, [row - row.min() for row in table]) for table in tables]
        chosen.append([answer for answer in answers if answer is not None])
    return chosen


def best_table(
    engine: PostTraining,
    space: Space,
    reference: Reference,
    tables: Sequence[Table],
    costs: Sequence[FloatArray],
    budgets: int,
    done: Callable[[float], None],
) -> Table:
    """Return the table whose plans have the least mean logarithm of the divergence; of equal ones the first.

    Sums of single rises leave out what one layer's error does to another's, so tables that rank choices alike can differ by a tenth in
    what their plans lose: only the plans themselves tell. A budget at which all tables agree costs nothing.

    Args:
        engine, space, reference: the network, its choices, and what it returns in float.
        tables: of rises, per dimension [K_d].
        costs: per dimension [K_d], bits.
        budgets: at how many budgets plans are compared.
        done: is told what a plan cost, in forward passes over the examples.
    """
    totals = np.zeros(len(tables))
    for answers in plans(space, tables, costs, budgets):
        losses = {}
        for values in dict.fromkeys(answers) if len(set(answers)) > 1 else ():
            losses[values] = divergence(engine, space, values, reference)
            done(1.0)
        if losses:
            totals += [np.log(max(losses[values], TINY)) for values in answers]
    return tables[int(totals.argmin())]


def divergence(engine: PostTraining, space: Space, values: Values, reference: Reference) -> float:
    """Return the mean divergence of a whole policy from the float network, in nats."""
    total = 0.0
    with torch.inference_mode():
        model = engine.apply(space.policy(values))
        for inputs, wanted in zip(reference.batches, reference.outputs, strict=True):
            total += reference.compare(forward(model, inputs), wanted)[0]
    return total / reference.distributions
