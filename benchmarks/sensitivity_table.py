"""How far sums of sensitivities can go on a table of all policies: rank correlation and regret under every budget of P4.

P4 is `benchmarks/problems/digits_cnn_16384.npz`, the cross-entropy of all 4^7 policies of a CNN. Sensitivities of what ships are rows of
that table: the rise when one layer alone leaves 8 bits. `pairs` adds what two layers do to each other, measured likewise. `best sum` is
fitted by least squares to the logarithm of every policy within the budget: in this sense no table of single choices explains them better.

Spearman is over all policies within the budget. Regret is that of the policy of the least sum, (f - f*) / (f_uniform - f*).

Run: python -m benchmarks.sensitivity_table
"""

import itertools
from collections.abc import Callable

import numpy as np
from scipy.stats import spearmanr

from benchmarks.searchers_problems import PROBLEMS, Case, digits
from search.problem.problem import FloatArray, IntArray

WIDEST = 3


def measured_rises(table: FloatArray) -> FloatArray:
    """Return [D, K]: the rise of every choice with all other dimensions at their widest."""
    rises = np.empty((table.ndim, table.shape[0]))
    for d, row in enumerate(rises):
        at: list[int | slice] = [WIDEST] * table.ndim
        at[d] = slice(None)
        row[:] = table[tuple(at)] - table[(WIDEST,) * table.ndim]
    return rises


def summed(rises: FloatArray, points: IntArray) -> FloatArray:
    """Return [N]: the sum of the rises [D, K] of points [N, D]."""
    total: FloatArray = rises[np.arange(len(rises)), points].sum(axis=1)
    return total


def with_pairs(table: FloatArray, points: IntArray) -> FloatArray:
    """Return [N]: the sum of single rises and of what every pair of choices adds to theirs."""
    rises, corner = measured_rises(table), [WIDEST] * table.ndim
    total = summed(rises, points)
    for d, e in itertools.combinations(range(table.ndim), 2):
        at: list[int | slice] = list(corner)
        at[d] = at[e] = slice(None)
        both = table[tuple(at)] - table[tuple(corner)] - rises[d][:, None] - rises[e][None, :]
        total = total + both[points[:, d], points[:, e]]
    return total


def best_sum(errors: FloatArray, points: IntArray, choices: int) -> FloatArray:
    """Return [N]: the sum of one term per dimension and choice that is nearest to the logarithm of the errors [N]."""
    columns = [points[:, d] == k for d in range(points.shape[1]) for k in range(1, choices)]
    design = np.stack([np.ones(len(points)), *columns], axis=1)
    fitted: FloatArray = design @ np.linalg.lstsq(design, np.log(errors), rcond=None)[0]
    return fitted


def row(name: str, case: Case, errors: FloatArray, losses: FloatArray) -> str:
    """Return one line of the report."""
    regret = (errors[losses.argmin()] - case.best) / (case.uniform - case.best)
    return f"| {case.name} | {len(errors)} | {name} | {spearmanr(losses, errors).statistic:.3f} | {regret:.3f} |"


def main() -> None:
    """Print the table."""
    data = np.load(PROBLEMS / "digits_cnn_16384.npz")
    table, fisher = data["ce"].astype(np.float64), data["fis"].astype(np.float64)
    everything = np.stack(np.unravel_index(np.arange(table.size), table.shape), axis=1).astype(np.int64)
    losses: dict[str, Callable[[IntArray], FloatArray]] = {
        "Fisher, one pass": lambda points: summed(fisher, points),
        "measured": lambda points: summed(measured_rises(table), points),
        "measured, with pairs": lambda points: with_pairs(table, points),
    }
    print("| budget | policies | sum of | Spearman | regret |", "|---|---|---|---|---|", sep="\n")
    for case in digits():
        kept = everything[(case.problem.excess(everything) <= 0).all(axis=1)]
        errors = table[tuple(kept.T)]
        for name, loss in losses.items():
            print(row(name, case, errors, loss(kept)))
        print(row("best sum", case, errors, best_sum(errors, kept, len(fisher[0]))))


if __name__ == "__main__":
    main()
