"""Offspring: within the limits, new, near the budget, from both parents, also with peaks and several limits."""

import numpy as np
import pytest

from search.problem.problem import IntArray, Problem
from search.problem.repair import Repairer
from search.searchers.base.history import ProposalHistory
from search.searchers.base.offspring import offspring


def toy(limits: dict[str, float], layers: int = 30) -> Problem:
    """Return `layers` sites of a weight and an activation dimension with four choices each; `peak` is a greatest cost."""
    scale = np.random.default_rng(3).uniform(1, 20, layers)
    bits = np.arange(1.0, 5.0)
    tables = {
        "bytes": tuple(s * np.repeat(bits[:, None], 4, axis=1) for s in scale),
        "cycles": tuple(s * np.outer(bits, bits) for s in scale[::-1]),
        "peak": tuple(s * np.repeat(bits[None], 4, axis=0) for s in scale),
    }
    sites = tuple((2 * n, 2 * n + 1) for n in range(layers))
    return Problem((4,) * (2 * layers), ("error",), sites, tables, limits, peak=frozenset({"peak"}))


def bred(problem: Problem, parents: list[tuple[int, ...]], count: int = 200) -> IntArray:
    """Return offspring of repaired parents, and check that they are new, distinct and within the limits."""
    history = ProposalHistory(problem, 0, Repairer(problem, "random"))
    pool = [history.repaired(parent) for parent in parents]
    for parent in pool:
        history.open(parent)
    points = offspring(history, problem, pool, count)
    assert all(problem.feasible(point) for point in points)
    assert len({tuple(point) for point in points} | set(pool)) == len(points) + len(pool)
    return points


LIMITS = [{}, {"bytes": 800.0}, {"bytes": 800.0, "cycles": 1500.0}, {"peak": 45.0}, {"bytes": 700.0, "peak": 60.0, "cycles": 2000.0}]


@pytest.mark.parametrize("limits", LIMITS, ids=lambda limits: "+".join(limits) or "free")
def test_offspring_are_new_and_within_every_limit(limits: dict[str, float]) -> None:
    assert len(bred(toy(limits), [(3,) * 60, (0, 3) * 30])) > 100


def test_the_cost_stays_near_the_budget() -> None:
    problem = toy({"bytes": 800.0})
    used = problem.costs(bred(problem, [(3,) * 60, (2, 1) * 30]))["bytes"]
    assert np.median(used) > 0.9 * 800.0


def test_crossover_mixes_whole_sites_of_two_parents() -> None:
    problem = toy({}, layers=8)
    first, second = (0, 3) * 8, (3, 0) * 8
    points = bred(problem, [first, second]).reshape(-1, 8, 2)
    low, high = (points == (0, 3)).all(axis=2), (points == (3, 0)).all(axis=2)
    assert (low.any(axis=1) & high.any(axis=1)).mean() > 0.25
    assert (low | high).mean() > 0.6


def test_no_parents_no_offspring() -> None:
    assert bred(toy({}), []).shape == (0, 60)
