"""How far sums of sensitivities can go on a table of all policies: rank correlation and regret under every budget of P4.

P4 is `benchmarks/problems/digits_cnn_16384.npz`, the cross-entropy of all 4^7 policies of a CNN. Sensitivities of what ships are rows of
that table: the rise when one layer alone leaves 8 bits. `pairs` adds what two layers do to each other, measured likewise. `best sum` is
fitted by least squares to the logarithm of every policy within the budget: in this sense no table of single choices explains them better.
`around 3 bits`: all other layers are at 3 bits in place of 8. `n measured` is the second-order model that `auto` and `evo` fit, here to n
random policies within the budget beside the measured rises; its figures are means over `DRAWS` draws, its Spearman over the policies that
it was not fitted to.

Spearman is over all policies within the budget. Regret is that of the policy of the least sum, (f - f*) / (f_uniform - f*).

Run: python -m benchmarks.sensitivity_table
"""

import itertools

import numpy as np
from scipy.stats import spearmanr

from benchmarks.searchers_problems import PROBLEMS, Case, digits
from search.problem.problem import FloatArray, IntArray
from search.searchers.surrogate.quadratic import fit

WIDEST, MIDDLE = 3, 1
MEASURED = (24, 48, 96, 192)
"""Policies that the second-order model is fitted to."""
DRAWS = 5


def measured_rises(table: FloatArray, around: int = WIDEST) -> FloatArray:
    """Return [D, K]: the rise of every choice with all other dimensions at the choice `around`: the widest."""
    rises = np.empty((table.ndim, table.shape[0]))
    for d, row in enumerate(rises):
        at: list[int | slice] = [around] * table.ndim
        at[d] = slice(None)
        row[:] = table[tuple(at)] - table[(around,) * table.ndim]
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


def by_model(table: FloatArray, points: IntArray, errors: FloatArray, measured: int, seed: int) -> tuple[FloatArray, IntArray]:
    """Return [N] the model's losses of points [N, D], fitted to `measured` of their errors [N], and [N - measured] which were left out."""
    picked = np.random.default_rng(seed).choice(len(points), size=measured, replace=False)
    rises = measured_rises(table)
    model = fit(points[picked], np.log(errors[picked]), tuple(row - row.min() for row in rises))
    return model.predict(points)[0], np.setdiff1d(np.arange(len(points)), picked)


def of_models(case: Case, table: FloatArray, points: IntArray, errors: FloatArray, measured: int) -> str:
    """Return the line of the second-order model, means over `DRAWS` draws."""
    figures = []
    for seed in range(DRAWS):
        losses, left = by_model(table, points, errors, measured, seed)
        figures.append((float(spearmanr(losses[left], errors[left]).statistic), _regret(case, errors, losses)))
    rank, regret = np.mean(figures, axis=0)
    return f"| {case.name} | {len(errors)} | {measured} measured | {rank:.3f} | {regret:.3f} |"


def row(name: str, case: Case, errors: FloatArray, losses: FloatArray) -> str:
    """Return one line of the report."""
    return f"| {case.name} | {len(errors)} | {name} | {spearmanr(losses, errors).statistic:.3f} | {_regret(case, errors, losses):.3f} |"


def _regret(case: Case, errors: FloatArray, losses: FloatArray) -> float:
    """Return the regret of the policy of the least loss."""
    return float((errors[losses.argmin()] - case.best) / (case.uniform - case.best))


def lines(case: Case) -> list[str]:
    """Return the rows of one budget."""
    data = np.load(PROBLEMS / "digits_cnn_16384.npz")
    table, fisher = data["ce"].astype(np.float64), data["fis"].astype(np.float64)
    everything = np.stack(np.unravel_index(np.arange(table.size), table.shape), axis=1).astype(np.int64)
    kept = everything[(case.problem.excess(everything) <= 0).all(axis=1)]
    errors = table[tuple(kept.T)]
    losses = {
        "Fisher, one pass": summed(fisher, kept),
        "measured": summed(measured_rises(table), kept),
        "measured around 3 bits": summed(measured_rises(table, MIDDLE), kept),
        "measured, with pairs": with_pairs(table, kept),
        "best sum": best_sum(errors, kept, len(fisher[0])),
    }
    rows = [row(name, case, errors, loss) for name, loss in losses.items()]
    return rows + [of_models(case, table, kept, errors, measured) for measured in MEASURED]


def main() -> None:
    """Print the table."""
    print("| budget | policies | sum of | Spearman | regret |", "|---|---|---|---|---|", sep="\n")
    for case in digits():
        print(*lines(case), sep="\n", flush=True)


if __name__ == "__main__":
    main()
