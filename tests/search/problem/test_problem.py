"""Costs of points: gathered from the tables of sites of any size."""

import numpy as np

from search.problem.problem import Problem, SitePair


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


def test_pairs_of_sites_add_to_the_costs_of_their_joint_choices() -> None:
    tables = {"time": (np.ones((2, 3)), np.ones(2)), "bytes": (np.ones((2, 3)), np.ones(2))}
    added = np.arange(12.0).reshape(6, 2)
    problem = Problem((2, 3, 2), ("error",), ((0, 1), (2,)), tables, {"time": 5.0}, pair_cost={"time": (SitePair(0, 1, added),)})
    assert problem.costs_of((1, 2, 1)) == {"time": 2.0 + added[5, 1], "bytes": 2.0}
    assert problem.costs_of((0, 1, 0))["time"] == 2.0 + added[1, 0]
    assert problem.max_cost("time") == 2.0 + 11.0
    assert (problem.feasible((0, 1, 0)), problem.feasible((1, 2, 1))) == (True, False)
