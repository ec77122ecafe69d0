"""Short cuts in large spaces give what they stand for."""

import numpy as np

from search.problem.problem import Problem
from search.searchers.surrogate import quadratic
from search.searchers.surrogate.model import _distinct

RNG = np.random.default_rng(0)


def test_products_sum_the_correlations() -> None:
    a, b = (RNG.integers(5, size=(n, quadratic.MANY + 1)) for n in (7, 4))
    distance = np.abs(a[:, None, :] - b[None, :, :])
    for length in (1.0, 0.5):
        np.testing.assert_allclose(quadratic._inner(a, b, length), np.exp(-distance / length).sum(axis=2), rtol=1e-12)
    dimensions, near = a.shape[1], np.exp(-distance / quadratic.LENGTH)
    pairs = (near.sum(axis=2) ** 2 - (near**2).sum(axis=2)) / (dimensions * (dimensions - 1))
    for part, expected in zip(quadratic._parts(a, b), (near.mean(axis=2), pairs), strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-12)


def test_different_points_come_in_the_order_of_numpy() -> None:
    for dimensions, choices in ((3, 3), (60, 2), (4, 300)):
        points = RNG.integers(choices, size=(200, dimensions))
        points[50:100] = points[:50]
        assert np.array_equal(_distinct(points), np.unique(points, axis=0))


def test_costs_are_gathered_from_sites_of_any_size() -> None:
    cards, sites = (2, 3, 4, 2), ((2, 0), (1,), (3,))
    tables = {name: tuple(RNG.random(tuple(cards[d] for d in site)) for site in sites) for name in ("time", "memory")}
    problem = Problem(cards, ("error",), sites, tables, base_cost={"time": 1.0}, peak=frozenset({"memory"}))
    points = np.stack([RNG.integers(count, size=20) for count in cards], axis=1)
    costs = problem.costs(points)
    for n, point in enumerate(points):
        entries = {name: [table[tuple(point[list(site)])] for site, table in zip(sites, tables[name], strict=True)] for name in tables}
        assert np.isclose(costs["time"][n], 1.0 + sum(entries["time"]))
        assert costs["memory"][n] == max(0.0, *entries["memory"])
    assert list(problem.costs(points, ["memory"])) == ["memory"]
    assert [end.tolist() for end in problem.ends("time")] == [[end(table) for table in tables["time"]] for end in (np.min, np.max)]
