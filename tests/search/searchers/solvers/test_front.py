"""The front of an additive loss and a cost: every point against enumeration, its ends against the extremes."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from search.problem.problem import Problem
from search.searchers.solvers.front import solved_front


@pytest.mark.parametrize("seed", range(8))
def test_every_point_is_the_best_within_its_budget(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs = tuple(np.sort(rng.integers(1, 50, 4).astype(float)) for _ in range(5))
    losses = tuple(np.sort(rng.random(4))[::-1].copy() for _ in range(5))
    other = tuple(rng.random(4) for _ in range(5))
    sites = tuple((d,) for d in range(5))
    problem = Problem((4,) * 5, ("error", "weight_bytes"), sites, {"weight_bytes": costs, "latency_s": other}, limits={"latency_s": 3.2})
    every = [
        (sum(t[v] for t, v in zip(costs, p, strict=True)), sum(t[v] for t, v in zip(losses, p, strict=True)))
        for p in itertools.product(range(4), repeat=5)
        if sum(t[v] for t, v in zip(other, p, strict=True)) <= 3.2
    ]
    points = solved_front(problem, losses, "weight_bytes", 12)
    for point in points:
        best = min(loss for cost, loss in every if cost <= point.budget * (1 + 1e-12))
        assert point.solution.loss == pytest.approx(best)
        assert point.solution.proven
        assert point.cost <= point.budget * (1 + 1e-12)
    assert points[-1].solution.loss == pytest.approx(min(loss for _, loss in every))
    rising = [point.solution.loss for point in points]
    assert rising == sorted(rising, reverse=True)


def test_a_problem_that_nothing_solves_has_no_front() -> None:
    tables = (np.array([1.0, 2.0]),) * 2
    problem = Problem((2, 2), ("error", "weight_bytes"), ((0,), (1,)), {"weight_bytes": tables}, limits={"weight_bytes": 1.0})
    assert solved_front(problem, tables, "weight_bytes") == []
    assert solved_front(replace(problem, limits={}), tables, "weight_bytes")
