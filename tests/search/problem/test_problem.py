"""Costs of points: gathered from the tables of sites of any size."""

import numpy as np

from search.problem.problem import Problem


def test_costs_are_gathered_from_sites_of_any_size() -> None:
    rng = np.random.default_rng(0)
    cards, sites = (2, 3, 4, 2), ((2, 0), (1,), (3,))
    tables = {name: tuple(rng.random(tuple(cards[d] for d in site)) for site in sites) for name in ("time", "memory")}
    problem = Problem(cards, ("error",), sites, tables, base_cost={"time": 1.0}, peak=frozenset({"memory"}))
    points = np.stack([rng.integers(count, size=20) for count in cards], axis=1)
    costs = problem.costs(points)
    for n, point in enumerate(points):
        entries = {name: [table[tuple(point[list(site)])] for site, table in zip(sites, tables[name], strict=True)] for name in tables}
        assert np.isclose(costs["time"][n], 1.0 + sum(entries["time"]))
        assert costs["memory"][n] == max(0.0, *entries["memory"])
    assert list(problem.costs(points, ["memory"])) == ["memory"]
    assert [end.tolist() for end in problem.ends("time")] == [[end(table) for table in tables["time"]] for end in (np.min, np.max)]
