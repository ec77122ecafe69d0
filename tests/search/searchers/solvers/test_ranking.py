"""Points in the order of an additive loss: dynamic programming against enumeration and against the integer program."""

import itertools
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.searchers_problems import cases
from search.problem.problem import FloatArray, Problem, Values
from search.searchers.base.losses import losses
from search.searchers.solvers import knapsack, ranking
from search.searchers.solvers.milp import solve
from search.searchers.solvers.ranking import best, ranked


def random_problem(seed: int, limited: int) -> tuple[Problem, tuple[FloatArray, ...]]:
    """Return up to four sites of one or two dimensions; every other problem has whole numbers, so that costs and losses tie."""
    rng = np.random.default_rng(seed)
    sites: list[tuple[int, ...]] = []
    cards: list[int] = []
    for _ in range(int(rng.integers(1, 5))):
        width = int(rng.integers(1, 3))
        sites.append(tuple(range(len(cards), len(cards) + width)))
        cards += [int(k) for k in rng.integers(1, 5, width)]

    def table(*shape: int) -> FloatArray:
        drawn = rng.uniform(0, 5, shape)
        return np.round(drawn) if seed % 2 else drawn

    costs = {name: tuple(table(*(cards[d] for d in site)) for site in sites) for name in ("time", "bytes")}
    tables = tuple(table(k) for k in cards)
    free = Problem(tuple(cards), ("error",), tuple(sites), costs, base_cost={"time": 1.0}, peak=frozenset({"bytes"}))
    spent = free.costs(points(free))
    limits = {name: float(np.quantile(spent[name], rng.uniform())) for name in list(costs)[:limited]}
    return Problem(tuple(cards), ("error",), tuple(sites), costs, limits=limits, base_cost=free.base_cost, peak=free.peak), tables


def points(problem: Problem) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.array(list(itertools.product(*map(range, problem.cardinalities))), dtype=np.int64)


def total(values: Values, tables: tuple[FloatArray, ...]) -> float:
    return sum(float(table[v]) for table, v in zip(tables, values, strict=True))


@pytest.mark.parametrize("small", [0, ranking.SMALL])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), limited=st.integers(0, 1))
def test_every_point_comes_once_and_in_order(small: int, seed: int, limited: int) -> None:
    problem, tables = random_problem(seed, limited)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "SMALL", small)
        in_order = list(ranked(problem, tables))
    wanted = sorted(total(point, tables) for point in map(tuple, points(problem)) if problem.feasible(point))
    assert len(set(in_order)) == len(in_order) == len(wanted)
    assert [total(point, tables) for point in in_order] == pytest.approx(wanted)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_several_limits_go_to_the_integer_program(seed: int) -> None:
    problem, tables = random_problem(seed, 2)
    feasible = [tuple(point) for point in points(problem) if problem.feasible(point)]
    if not feasible:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "SMALL", 0)
        in_order = list(islice(ranked(problem, tables), 3))
    wanted = sorted(total(point, tables) for point in feasible)[:3]
    assert [total(point, tables) for point in in_order] == pytest.approx(wanted)


def test_a_dynamic_program_that_grows_too_large_hands_over_to_the_integer_program(monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases(("P1",))[0]
    tables = losses(case.problem)
    wanted = [total(point, tables) for point in islice(ranked(case.problem, tables), 4)]
    monkeypatch.setattr(knapsack, "MOST_STATES", 40)
    in_order = list(islice(ranked(case.problem, tables), 4))
    assert [total(point, tables) for point in in_order] == pytest.approx(wanted)


@pytest.mark.parametrize("case", cases(("P2",)), ids=lambda case: case.name)
def test_the_dynamic_program_agrees_with_the_integer_program(case: object) -> None:
    assert isinstance(case, type(cases(("P1",))[0]))
    tables = losses(case.problem)
    optimum, other = best(case.problem, tables), solve(case.problem, tables)
    assert optimum is not None
    assert other is not None
    assert total(optimum, tables) == pytest.approx(total(other, tables), abs=1e-12)


def test_the_optimum_of_haqs_table_is_the_integer_programs() -> None:
    """53 sites of 64 joint choices: the hardest budget of the benchmark, with a wide gap between the bound and the optimum."""
    case = cases(("P5",))[0]
    tables = losses(case.problem)
    optimum, other = best(case.problem, tables), solve(case.problem, tables)
    assert optimum is not None
    assert other is not None
    assert case.problem.feasible(optimum)
    assert total(optimum, tables) <= total(other, tables) + 1e-12


@pytest.mark.parametrize("seed", range(6))
def test_sites_with_many_choices_and_tight_budgets_agree_with_the_integer_program(seed: int) -> None:
    """Losses of very different size, whole numbers in every other problem, so that bound and optimum differ and optima tie."""
    rng = np.random.default_rng(seed)
    scale = rng.lognormal(0, 1.5, (20, 1))
    tables = tuple(np.sort(scale * rng.exponential(1.0, (20, 12)), axis=1)[:, ::-1])
    costs = tuple(np.sort(rng.exponential(1.0, (20, 12)), axis=1))
    if seed % 2:
        tables, costs = (tuple(np.ceil(4 * row) for row in table) for table in (tables, costs))
    low, high = (sum(float(reduce(row)) for row in costs) for reduce in (np.min, np.max))
    limits = {"time": low + (0.05, 0.2, 0.6)[seed // 2] * (high - low)}
    problem = Problem((12,) * 20, ("error",), tuple((d,) for d in range(20)), {"time": costs}, limits=limits)
    optimum, other = best(problem, tables), solve(problem, tables)
    assert optimum is not None
    assert other is not None
    assert problem.feasible(optimum)
    assert total(optimum, tables) == pytest.approx(total(other, tables), rel=1e-12)


def test_the_first_point_needs_far_fewer_partial_solutions_than_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two halves that meet in the middle: the optimum of HAQ's table within 50,000 combinations per site, and no integer program."""
    case = cases(("P5",))[0]
    tables = losses(case.problem)
    wanted = best(case.problem, tables)
    monkeypatch.setattr(knapsack, "MOST_STATES", 50_000)
    monkeypatch.delattr(ranking, "solve")
    assert best(case.problem, tables) == wanted
    with pytest.raises(NameError):
        list(islice(ranked(case.problem, tables), 2))


def test_ties_without_end_do_not_hold_up_the_first_point() -> None:
    """Rounded losses: the optimum has countless twins, whose sums differ in their last bit."""
    rng = np.random.default_rng(1000)
    tables = tuple(np.round(np.sort(rng.exponential(1.0) * rng.uniform(0, 1, 25))[::-1], 1) for _ in range(52))
    costs = tuple(np.ceil(10 * rng.exponential(1.0) * np.sort(rng.uniform(0.05, 1, 25))) for _ in range(52))
    low, high = (sum(float(reduce(row)) for row in costs) for reduce in (np.min, np.max))
    problem = Problem((25,) * 52, ("error",), tuple((d,) for d in range(52)), {"time": costs}, limits={"time": low + 0.1 * (high - low)})
    in_order = list(islice(ranked(problem, tables), 20))
    assert len(set(in_order)) == 20
    other = solve(problem, tables)
    assert other is not None
    assert [total(point, tables) for point in in_order] == pytest.approx([total(other, tables)] * 20)


@pytest.mark.parametrize("small", [0, ranking.SMALL])
def test_a_limit_of_zero_beside_another_is_kept(monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    monkeypatch.setattr(ranking, "SMALL", small)
    tables = (np.array([1.0, 0.0]), np.array([3.0, 2.0, 0.0]))
    costs = {"time": (np.array([0.0, 4.0]), np.array([0.0, 0.0, 9.0])), "bytes": (np.array([1.0, 2.0]), np.array([1.0, 2.0, 3.0]))}
    problem = Problem((2, 3), ("error",), ((0,), (1,)), costs, limits={"time": 0.0, "bytes": 3.0})
    assert list(ranked(problem, tables)) == [(0, 1), (0, 0)]
