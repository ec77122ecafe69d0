"""Exact answers under any number of limits: against a dense table, every point, and duals in fractions; bound and gap are true."""

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import linprog

from search.problem.problem import FloatArray, Problem, Values
from search.searchers.solvers import enumeration, exact, ranking
from search.searchers.solvers.exact import PROVEN, Solution, solve_exactly
from search.searchers.solvers.ranking import optimum
from tests.search.searchers.solvers.exact_oracle import GRAIN, draw

Losses = tuple[FloatArray, ...]


def fraction(losses: Losses, values: Values) -> Fraction:
    return sum((Fraction(float(table[value])) for table, value in zip(losses, values, strict=True)), Fraction(0))


@pytest.mark.parametrize("block", range(6))
def test_random_problems_have_the_least_loss_of_a_dense_table(block: int) -> None:
    """300 problems: 1-3 limits, 2-52 layers, 2-25 choices, outliers of 1e8, 12 orders of magnitude, ties, peaks, joint sites."""
    answers = 0
    for seed in range(50 * block, 50 * (block + 1)):
        drawn = draw(seed)
        for answer in (solve_exactly(drawn.problem, drawn.losses), optimum(drawn.problem, drawn.losses)):
            assert (answer is None) == (drawn.least is None), seed
            if answer is None or drawn.least is None:
                continue
            answers += 1
            least = sum(int(table.min()) for table in drawn.whole)
            assert drawn.problem.feasible(answer.values), seed
            assert drawn.loss(answer.values) - drawn.least <= PROVEN * (drawn.least - least), seed
            assert answer.proven, seed
            assert answer.gap <= PROVEN * (drawn.least - least) * GRAIN, seed
            assert answer.loss == pytest.approx(drawn.least * GRAIN, rel=1e-9), seed
    assert 40 < answers < 100


def real_problem(seed: int, limited: int) -> tuple[Problem, Losses]:
    """Return up to 3,000 points with costs and losses of full mantissa, limits on a point's own cost or next to it."""
    rng = np.random.default_rng(seed)
    shapes = [(3, 2), (4,), (5,), (4, 2), (3,)][: 3 + seed % 3]
    cards = tuple(k for shape in shapes for k in shape)
    starts = np.cumsum([0, *(len(shape) for shape in shapes)])
    sites = tuple(tuple(range(a, b)) for a, b in itertools.pairwise(starts))
    costs = {name: tuple(rng.lognormal(0, 2, shape) for shape in shapes) for name in ("time", "energy", "memory")[:limited]}
    losses = tuple(10 ** rng.uniform(-6, 6, k) for k in cards)
    problem = Problem(cards, ("error",), sites, costs, base_cost={"time": 0.3}, peak=frozenset({"memory"}) & set(costs))
    limits = {}
    for name, column in problem.costs(everything(problem)).items():
        limits[name] = float(rng.choice(column)) * (1, 1 - 5e-13, 1 - 4e-12, 1 - 3e-9)[int(rng.integers(4))]
        floor = {name: max(limits[name], float(column.min()))}
        limits.update(floor)
    return replace(problem, limits=limits), losses


def everything(problem: Problem) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.array(list(itertools.product(*map(range, problem.cardinalities))), dtype=np.int64)


@pytest.mark.parametrize("limited", [1, 2, 3])
@pytest.mark.parametrize("small", [0, ranking.SMALL])
def test_limits_on_a_points_own_cost_are_kept_to_the_last_bit(monkeypatch: pytest.MonkeyPatch, limited: int, small: int) -> None:
    monkeypatch.setattr(ranking, "SMALL", small)
    for seed in range(20):
        problem, losses = real_problem(seed, limited)
        kept = [tuple(map(int, point)) for point in everything(problem) if problem.feasible(point)]
        answer = optimum(problem, losses)
        assert (answer is None) == (not kept), seed
        if answer is not None:
            least = min(fraction(losses, point) for point in kept)
            assert problem.feasible(answer.values)
            assert fraction(losses, answer.values) - least <= Fraction(1e-12) * least, seed


def layers(seed: int, limited: int, n: int = 52, k: int = 25) -> tuple[Problem, Losses]:
    """Return layers of 25 choices under random limits, everything of full mantissa."""
    rng = np.random.default_rng(seed)
    costs = {name: rng.lognormal(0, 1, (n, k)) for name in ("size", "bops", "time")[:limited]}
    limits = {name: 0.8 * float(table.min(axis=1).sum()) + 0.2 * float(table.max(axis=1).sum()) for name, table in costs.items()}
    problem = Problem((k,) * n, ("error",), tuple((d,) for d in range(n)), {name: tuple(t) for name, t in costs.items()}, limits)
    return problem, tuple(rng.lognormal(0, 3, (n, k)))


def dual_bound(problem: Problem, losses: Losses) -> Fraction:
    """Return a true lower bound: the Lagrangian at scipy's prices, rounded to fractions >= 0 and added up in fractions (weak duality)."""
    n, k = len(losses), len(losses[0])
    rows = np.array([np.concatenate(tables) for tables in problem.site_cost.values()])
    ones = np.kron(np.eye(n), np.ones(k))
    limits = list(problem.limits.values())
    solved = linprog(np.concatenate(losses), A_ub=rows, b_ub=limits, A_eq=ones, b_eq=np.ones(n), bounds=(0, None))
    prices = [Fraction(max(0.0, -float(price))) for price in solved.ineqlin.marginals]
    bound = -sum((price * Fraction(limit) for price, limit in zip(prices, limits, strict=True)), Fraction(0))
    for s, table in enumerate(losses):
        costs = [[Fraction(float(cost)) for cost in tables[s]] for tables in problem.site_cost.values()]
        bound += min(
            Fraction(float(loss)) + sum(price * row[j] for price, row in zip(prices, costs, strict=True)) for j, loss in enumerate(table)
        )
    return bound


@pytest.mark.parametrize("limited", [1, 2, 3])
def test_an_outlier_that_no_optimum_has_changes_neither_the_answer_nor_its_proof(limited: int) -> None:
    problem, losses = layers(limited, limited)
    plain = solve_exactly(problem, losses)
    assert plain is not None
    assert plain.proven
    rng = np.random.default_rng(0)
    for scale in (1e8, 1e12):
        collapsed = tuple(table.copy() for table in losses)
        for d in rng.choice(52, 6, replace=False):
            spared = np.flatnonzero(np.arange(25) != plain.values[d])
            collapsed[d][rng.choice(spared)] = scale
        for answer in (solve_exactly(problem, collapsed), optimum(problem, collapsed)):
            assert answer is not None
            assert answer.proven
            assert answer.loss == pytest.approx(plain.loss, rel=1e-9)
            assert dual_bound(problem, collapsed) <= fraction(collapsed, answer.values)
            assert fraction(collapsed, answer.values) <= Fraction(1.02) * dual_bound(problem, losses)


def test_an_outlier_that_every_answer_has_hides_no_difference() -> None:
    """One layer can be kept within the limits at a loss of 1e8 and more only; the others differ by millionths."""
    problem, losses = layers(3, 2, 12, 8)
    size = [table.copy() for table in problem.site_cost["size"]]
    size[0][2:] = 1e6
    forced = (np.array([1e8, 1e8 + 0.5, *losses[0][2:]]), *(1e-6 * table for table in losses[1:]))
    problem = replace(problem, site_cost={**problem.site_cost, "size": tuple(size)})
    rest = replace(
        problem, cardinalities=(2, *problem.cardinalities[1:]),
        site_cost={name: (tables[0][:2], *tables[1:]) for name, tables in problem.site_cost.items()},
    )  # fmt: skip
    one = solve_exactly(problem, forced)
    other = solve_exactly(rest, (forced[0][:2] - 1e8, *forced[1:]))
    assert one is not None
    assert other is not None
    assert one.proven
    assert one.values == other.values


def test_what_rounding_takes_from_a_joint_loss_counts() -> None:
    """Weight and activation of one layer: 1e8 beside millionths of millions, in a sum of two floats a difference of 1e-9 is lost."""
    weight, activation = np.array([1e8, 3e8]), np.array([5e-9, 2e-9, 1e-9, 4e-9])
    costs = {"time": (np.array([[3.0, 3, 9, 3], [9, 9, 9, 9]]), *(np.array([1.0, 0.0]) for _ in range(9)))}
    costs["energy"] = costs["time"]
    problem = Problem((2, 4, *(2,) * 9), ("error",), ((0, 1), *((d,) for d in range(2, 11))), costs, {"time": 6.0, "energy": 6.0})
    losses = (weight, activation, *(np.array([0.0, 1e-9 * 2**-d]) for d in range(9)))
    answer = solve_exactly(problem, losses)
    assert answer is not None
    kept = [tuple(map(int, point)) for point in everything(problem) if problem.feasible(point)]
    assert answer.values == min(kept, key=lambda point: fraction(losses, point))


def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no room for the enumeration."""
    monkeypatch.setattr(enumeration, "MOST_STATES", 1)


def test_without_the_enumeration_the_bound_of_highs_proves_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(monkeypatch)
    for seed in range(1, 60, 2):
        drawn = draw(seed)
        answer = solve_exactly(drawn.problem, drawn.losses)
        assert (answer is None) == (drawn.least is None), seed
        if answer is not None and drawn.least is not None:
            assert drawn.loss(answer.values) * GRAIN - drawn.least * GRAIN <= answer.gap + 1e-9 * drawn.least * GRAIN, seed
            assert answer.proven or answer.gap > 0


def test_too_few_nodes_are_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow(monkeypatch)
    problem, losses = layers(0, 3)
    short, full = solve_exactly(problem, losses, nodes=1), solve_exactly(problem, losses)
    assert isinstance(short, Solution)
    assert isinstance(full, Solution)
    assert full.proven
    assert not short.proven
    assert short.gap == pytest.approx(short.loss - short.bound)
    assert short.bound <= full.loss <= short.loss
    assert short.gap >= short.loss - full.loss


def test_costs_that_highs_cannot_tell_from_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs that differ by 1e-11 of the limit: all are within HiGHS's tolerance, half of them over the limit."""
    rng = np.random.default_rng(0)
    tiny = [1.0 + 1e-11 * np.append(rng.integers(0, 9, 5), 9e11) for _ in range(6)]
    costs = {"time": tuple(tiny), "energy": tuple(rng.uniform(1, 2, 6) for _ in range(6))}
    problem = Problem((6,) * 6, ("error",), tuple((d,) for d in range(6)), costs, {"time": 6 + 20e-11, "energy": 10.0})
    losses = tuple(9.0 - 1e11 * np.minimum(table - 1.0, 9e-11) + rng.uniform(0, 0.1, 6) for table in tiny)
    kept = [tuple(map(int, point)) for point in everything(problem) if problem.feasible(point)]
    least = float(min(fraction(losses, point) for point in kept))
    answer = solve_exactly(problem, losses)
    assert answer is not None
    assert answer.loss == pytest.approx(least, rel=1e-12)
    monkeypatch.setattr(exact, "RETRIES", 2)
    monkeypatch.setattr(exact, "ROUNDS", 3)
    narrow(monkeypatch)
    answer = solve_exactly(problem, losses)
    assert answer is not None
    assert problem.feasible(answer.values)
    assert answer.bound <= least <= answer.loss


def test_the_dynamic_program_needs_no_integer_program_for_an_outlier(monkeypatch: pytest.MonkeyPatch) -> None:
    """One limit and an outlier of 1e8: the answer comes from the dynamic program alone."""
    monkeypatch.delattr(ranking, "solve_exactly")
    problem, losses = layers(7, 1, 30, 12)
    collapsed = tuple(table.copy() for table in losses)
    collapsed[3][np.argmax(collapsed[3])] = 1e8
    plain, answer = optimum(problem, losses), optimum(problem, collapsed)
    assert plain is not None
    assert answer is not None
    assert answer.values == plain.values


def test_limits_that_exclude_each_other_have_no_answer() -> None:
    costs = {"time": tuple(np.array([1.0, 2.0]) for _ in range(20)), "energy": tuple(np.array([2.0, 1.0]) for _ in range(20))}
    problem = Problem((2,) * 20, ("error",), tuple((d,) for d in range(20)), costs, {"time": 29.0, "energy": 30.0})
    losses = tuple(np.array([1.0, 0.0]) for _ in range(20))
    assert optimum(problem, losses) is None
    assert optimum(replace(problem, limits={"time": 30.0, "energy": 30.0}), losses) is not None
