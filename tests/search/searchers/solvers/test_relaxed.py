"""Points near the best are within limits and within a thousandth of the proven ones, and take a bounded number of looks at the tables."""

import numpy as np
import pytest

from search.problem.problem import FloatArray, Problem
from search.searchers.solvers import relaxed
from search.searchers.solvers.ranking import optimum
from search.searchers.solvers.relaxed import Relaxed


def layered(sites: int, choices: int, shares: dict[str, float], seed: int = 0) -> tuple[Problem, tuple[FloatArray, ...]]:
    """Layers of very different sizes and sensitivities, and limits as shares of the way from the least to the most."""
    rng = np.random.default_rng(seed)
    bits = np.arange(2.0, 2.0 + choices)
    sizes = {"bytes": rng.lognormal(8.0, 1.5, sites), "seconds": rng.lognormal(3.0, 1.5, sites)}
    tables = {name: tuple(size * bits for size in row) for name, row in sizes.items()}
    limits = {name: sum(float(t[0] + share * (t[-1] - t[0])) for t in tables[name]) for name, share in shares.items()}
    rises = tuple(scale * 4.0**-bits for scale in rng.lognormal(0.0, 1.5, sites))
    return Problem((choices,) * sites, ("error",), tuple((d,) for d in range(sites)), tables, limits), rises


def loss(rises: tuple[FloatArray, ...], point: tuple[int, ...]) -> float:
    return float(sum(row[k] for row, k in zip(rises, point, strict=True)))


@pytest.mark.parametrize("shares", [{}, {"bytes": 0.1}, {"bytes": 0.5}, {"bytes": 0.3, "seconds": 0.3}, {"bytes": 0.6, "seconds": 0.1}])
@pytest.mark.parametrize("choices", [3, 8])
def test_the_loss_is_near_the_proven_least(shares: dict[str, float], choices: int) -> None:
    problem, rises = layered(80, choices, shares)
    point, proven = Relaxed(problem, rises).near_best(problem.limits), optimum(problem, rises)
    assert point is not None
    assert proven is not None
    assert problem.feasible(point)
    assert proven.loss <= loss(rises, point) * (1 + 1e-12)
    assert loss(rises, point) <= 1.001 * proven.loss


def test_the_next_points_are_new_and_rise_in_loss() -> None:
    problem, rises = layered(60, 5, {"bytes": 0.4})
    points = [point for point, _ in zip(Relaxed(problem, rises).near(problem.limits), range(12), strict=False)]
    assert len(set(points)) == 12
    assert all(map(problem.feasible, points))
    assert [loss(rises, point) for point in points] == sorted(loss(rises, point) for point in points)


def test_a_peak_limit_leaves_out_choices_and_what_cannot_be_kept_gives_none() -> None:
    problem, rises = layered(10, 4, {"bytes": 0.5})
    peak = Problem(problem.cardinalities, ("error",), problem.sites, problem.site_cost, peak=frozenset({"bytes"}))
    top = max(float(table[1]) for table in problem.site_cost["bytes"])
    point = Relaxed(peak, rises).near_best({"bytes": top})
    assert point is not None
    assert peak.costs_of(point)["bytes"] <= top
    assert Relaxed(peak, rises).near_best({"bytes": 0.0}) is None
    assert Relaxed(problem, rises).near_best({"bytes": 0.0}) is None


@pytest.mark.parametrize("shares", [{"bytes": 0.3}, {"bytes": 0.3, "seconds": 0.2}])
def test_the_number_of_looks_does_not_grow_with_the_layers(shares: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    excess = relaxed._Limited.excess
    monkeypatch.setattr(relaxed._Limited, "excess", lambda self, chosen: looks.append(1) or excess(self, chosen))
    counts = []
    for sites in (50, 500):
        problem, rises = layered(sites, 8, shares)
        looks.clear()
        assert Relaxed(problem, rises).near_best(problem.limits) is not None
        counts.append(len(looks))
    assert max(counts) <= 2 * relaxed.CUTS + 20
