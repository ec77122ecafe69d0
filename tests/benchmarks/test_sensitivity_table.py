"""Sums of sensitivities against a table of all policies."""

import numpy as np

from benchmarks.searchers_problems import digits
from benchmarks.sensitivity_table import best_sum, lines, measured_rises, summed, with_pairs


def test_sums_are_exact_where_the_table_is_a_sum_and_pairs_where_it_is_of_pairs() -> None:
    rng = np.random.default_rng(0)
    rises = rng.random((3, 4))
    points = np.stack(np.unravel_index(np.arange(64), (4, 4, 4)), axis=1).astype(np.int64)
    additive = summed(rises, points).reshape(4, 4, 4)
    base = additive[3, 3, 3]
    np.testing.assert_allclose(summed(measured_rises(additive), points), additive.ravel() - base)
    crossed = additive + np.add.outer(np.outer(rng.random(4), rng.random(4)), np.zeros(4))
    np.testing.assert_allclose(with_pairs(crossed, points), crossed.ravel() - crossed[3, 3, 3], atol=1e-12)
    np.testing.assert_allclose(best_sum(np.exp(additive.ravel()), points, 4), additive.ravel())


def test_no_sum_ranks_the_tightest_budget_well_and_the_second_order_model_does() -> None:
    case = next(case for case in digits() if case.name == "macs x bits 0.12")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines(case)]
    figures = {row[2]: (float(row[3]), float(row[4])) for row in rows}
    assert figures["measured"][1] <= 0.2 < figures["Fisher, one pass"][1]
    assert figures["best sum"][0] < 0.8 < figures["192 measured"][0], "what measured policies tell no sum of single choices holds"
    assert figures["192 measured"][1] <= 0.2
