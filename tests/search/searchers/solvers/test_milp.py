"""The integer program against enumeration: several limits, peaks, joint sites, pairwise terms and cuts."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.problem.problem import FloatArray, Problem, SitePair, Values
from search.searchers.solvers.milp import Pairs, solve
from search.searchers.solvers.ranking import optimum, ranked
from search.searchers.solvers.relaxed import Relaxed


def random_problem(seed: int) -> tuple[Problem, tuple[FloatArray, ...], Pairs]:
    """Return five dimensions on three sites with two sums and a peak, losses per dimension and pairwise terms."""
    rng = np.random.default_rng(seed)
    cards, sites = (2, 3, 3, 2, 2), ((0, 3), (1,), (2, 4))
    shapes = [tuple(cards[d] for d in site) for site in sites]
    tables = {name: tuple(rng.uniform(1, 10, shape) for shape in shapes) for name in ("time", "bytes", "memory")}
    problem = Problem(cards, ("error",), sites, tables, base_cost={"time": 2.0, "memory": 3.0}, peak=frozenset({"memory"}))
    costs = problem.costs(everything(problem))
    limits = {name: float(np.quantile(costs[name], rng.uniform(0.3, 0.9))) for name in tables}
    limited = Problem(cards, ("error",), sites, tables, limits=limits, base_cost=problem.base_cost, peak=problem.peak)
    pairs = {(d, e): rng.normal(0, 0.5, (cards[d], cards[e])) for d, e in ((0, 1), (0, 3), (2, 3), (1, 4))}
    return limited, tuple(rng.uniform(0, 1, k) for k in cards), pairs


def everything(problem: Problem) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.array(list(itertools.product(*map(range, problem.cardinalities))), dtype=np.int64)


def total(values: Values, losses: tuple[FloatArray, ...], pairs: Pairs) -> float:
    return sum(float(t[v]) for t, v in zip(losses, values, strict=True)) + sum(
        float(t[values[d], values[e]]) for (d, e), t in pairs.items()
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), paired=st.booleans(), cuts=st.integers(0, 3))
def test_the_program_finds_what_enumeration_finds(seed: int, paired: bool, cuts: int) -> None:
    problem, losses, pairs = random_problem(seed)
    shown = pairs if paired else {}
    kept = [tuple(map(int, point)) for point in everything(problem)]
    ranked = sorted((point for point in kept if problem.feasible(point)), key=lambda point: total(point, losses, shown))
    solution = solve(problem, losses, ranked[:cuts], shown)
    if len(ranked) <= cuts:
        assert solution is None
    else:
        assert solution is not None
        assert problem.feasible(solution)
        assert total(solution, losses, shown) == pytest.approx(total(ranked[cuts], losses, shown), abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_an_outlier_hides_no_difference_of_a_program_with_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs = {name: tuple(rng.uniform(1, 9, (8, 5))) for name in ("time", "bytes")}
    problem = Problem((5,) * 8, ("error",), tuple((d,) for d in range(8)), costs, limits={"time": 32.0, "bytes": 32.0})
    points = everything(problem)
    points = points[(problem.excess(points) <= 0).all(axis=1)]
    losses, pairs = tuple(rng.uniform(0, 1, (8, 5))), {(d, d + 1): rng.uniform(0, 0.5, (5, 5)) for d in range(0, 8, 2)}
    losses[0][rng.integers(5)], pairs[2, 3][2, 2], pairs[4, 5][1, 3] = 1e9, 1e9, -0.3
    sums = sum(table[points[:, d]] for d, table in enumerate(losses))
    sums = sums + sum(table[points[:, d], points[:, e]] for (d, e), table in pairs.items())
    solution = solve(problem, losses, (), pairs)
    assert solution is not None
    assert total(solution, losses, pairs) == pytest.approx(float(np.min(sums)), abs=1e-9)


def test_three_limits_and_25_choices_on_52_layers_take_seconds() -> None:
    rng = np.random.default_rng(0)
    w, a = (bits.ravel() for bits in np.meshgrid([2.0, 3, 4, 6, 8], [2.0, 3, 4, 6, 8], indexing="ij"))
    par, mac, act = (rng.lognormal(0, 1, (52, 1)) for _ in range(3))
    tables = {"size": par * w, "bops": mac * w * a, "time": np.maximum(mac * np.maximum(w, a), par * w + act * a)}
    losses = rng.lognormal(0, 1, (52, 1)) * 4.0**-w + rng.lognormal(0, 1, (52, 1)) * 4.0**-a
    limits = {name: 0.65 * float(t.min(axis=1).sum()) + 0.35 * float(t.max(axis=1).sum()) for name, t in tables.items()}
    problem = Problem((25,) * 52, ("error",), tuple((n,) for n in range(52)), {name: tuple(t) for name, t in tables.items()}, limits=limits)
    solution = solve(problem, tuple(losses))
    assert solution is not None
    assert problem.feasible(solution)
    value = float(losses[np.arange(52), list(solution)].sum())
    # the continuous relaxation at these prices is a lower bound (weak duality); the optimum is within a percent of it
    assert value >= dual_bound(losses, tables, limits) - 1e-9
    assert value <= 1.01 * dual_bound(losses, tables, limits)


def dual_bound(losses: FloatArray, tables: dict[str, FloatArray], limits: dict[str, float]) -> float:
    """Return the Lagrangian bound, its prices from scipy's linear program: an oracle that shares no code with the searcher."""
    from scipy.optimize import linprog

    n, k = losses.shape
    rows = np.array([t.ravel() for t in tables.values()])
    ones = np.kron(np.eye(n), np.ones(k))
    solution = linprog(losses.ravel(), A_ub=rows, b_ub=list(limits.values()), A_eq=ones, b_eq=np.ones(n), bounds=(0, 1))
    return float(solution.fun)


def chained(seed: int) -> tuple[Problem, tuple[FloatArray, ...]]:
    """Return eight sites whose time grows where a site and the next one choose otherwise, and losses."""
    rng = np.random.default_rng(seed)
    times = tuple(rng.uniform(1, 2, 3) for _ in range(8))
    pairs = {"time": tuple(SitePair(s, s + 1, np.where(np.eye(3), 0.0, rng.uniform(0, 2, (3, 3)))) for s in range(7))}
    free = Problem((3,) * 8, ("error",), tuple((d,) for d in range(8)), {"time": times}, pair_cost=pairs)
    limit = float(np.quantile(free.costs(everything(free))["time"], 0.05))
    return Problem((3,) * 8, ("error",), free.sites, {"time": times}, {"time": limit}, pair_cost=pairs), tuple(rng.uniform(0, 1, (8, 3)))


@pytest.mark.parametrize("seed", range(4))
def test_limits_to_which_pairs_of_sites_add_are_kept_and_the_answer_is_the_best_of_all_points(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.searchers.solvers.ranking.SMALL", 10)
    problem, losses = chained(seed)
    points = [tuple(map(int, point)) for point in everything(problem)[(problem.excess(everything(problem)) <= 0).all(axis=1)]]
    best = sorted(total(point, losses, {}) for point in points)[:3]
    answer = optimum(problem, losses)
    assert answer is not None
    assert (answer.loss, answer.proven) == (pytest.approx(best[0], abs=1e-9), True)
    three = list(itertools.islice(ranked(problem, losses), 3))
    assert all(problem.feasible(point) for point in three)
    assert [total(point, losses, {}) for point in three] == pytest.approx(best, abs=1e-9)
    near = Relaxed(problem, losses).near_best(problem.limits)
    assert near is not None
    assert problem.feasible(near)
