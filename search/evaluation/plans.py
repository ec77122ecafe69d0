"""Whole plans measured: which of several tables of sensitivities gives the policies that stay nearer to the float network."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from quant_core.network.forward import examples_of, forward
from quant_core.ptq.engine import PostTraining
from search.evaluation.divergence import PART, Reference
from search.problem.problem import FloatArray, Problem, Values
from search.searchers.solvers.ranking import best
from spaces.space import Space

SHARES = (0.35, 0.7, 0.2, 0.5, 0.1)
"""Budgets that plans are compared at, as shares of the way from the fewest bits to the most."""
SURE = 1.645
"""Standard errors by which a table has to be better than the first: one-sided, 95 %."""
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
    """Return the first table, unless the plans of another one diverge less beyond the noise.

    Sums of single rises leave out what one layer's error does to another's, so tables that rank choices alike can differ by a tenth in
    what their plans lose: only the plans themselves tell. Plans are compared on the same examples. Another table is taken where the sum
    over budgets of log(divergence / that of the first) is below 0 at `SURE` standard errors and no budget is worse by more than its
    standard error; of several the one with the least sum. A budget at which all tables agree costs nothing.

    Args:
        engine, space, reference: the network, its choices, and what it returns in float.
        tables: of rises, per dimension [K_d].
        costs: per dimension [K_d], bits.
        budgets: at how many budgets plans are compared.
        done: is told what a plan cost, in forward passes over the examples.
    """
    ratios: list[list[FloatArray]] = [[] for _ in tables]
    for answers in plans(space, tables, costs, budgets):
        parts = {}
        for values in dict.fromkeys(answers) if len(set(answers)) > 1 else ():
            parts[values] = np.maximum(divergences(engine, space, values, reference), TINY)
            done(1.0)
        for row, values in zip(ratios, answers, strict=True):
            if values != answers[0]:
                row.append(np.stack([parts[answers[0]], parts[values]]))
    gains = [_gain(row) for row in ratios]
    return tables[int(np.argmin([0.0, *gains[1:]]))]


def _gain(pairs: Sequence[FloatArray]) -> float:
    """Return the sum of log(other / first) over budgets where it is below 0 beyond the noise, else 0.

    The standard error of the logarithm of a ratio of sums is that of its linear terms, other_i / other - first_i / first, over parts.

    Args:
        pairs: per budget [2, N], divergences of the first table's plan and of the other's on N parts of the examples.
    """
    if not pairs or pairs[0].shape[1] < 2:
        return 0.0
    totals = np.array([np.log(pair[1].sum() / pair[0].sum()) for pair in pairs])
    moves = np.stack([pair[1] / pair[1].sum() - pair[0] / pair[0].sum() for pair in pairs])
    scale = moves.shape[1] / (moves.shape[1] - 1)
    errors, error = np.sqrt(scale * (moves**2).sum(axis=1)), np.sqrt(scale * (moves.sum(axis=0) ** 2).sum())
    better = totals.sum() < -SURE * error and (totals <= errors).all()
    return float(totals.sum()) if better else 0.0


def divergences(engine: PostTraining, space: Space, values: Values, reference: Reference) -> FloatArray:
    """Return [N]: the summed divergence of a whole policy from the float network on parts of at most `PART` examples, in nats."""
    sums = []
    with torch.inference_mode():
        model = engine.apply(space.policy(values))
        for inputs, wanted in zip(reference.batches, reference.outputs, strict=True):
            pair = forward(model, inputs), wanted
            whole = wanted.dim() == 0 or len(wanted) != examples_of(inputs)
            parts = [pair] if whole else list(zip(*(torch.split(rows, PART) for rows in pair), strict=True))
            sums += [reference.compare(*rows)[0] for rows in parts]
    return np.array(sums)
