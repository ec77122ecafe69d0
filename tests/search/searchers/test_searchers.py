"""The conformance kit: every searcher of the table keeps the contract of `search.problem.problem.Searcher`."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from quant_core.util.errors import InputError
from search.problem.problem import FloatArray, Problem, Searcher, Trial, Values
from search.problem.repair import FORMER_NAMES
from search.searchers import SEARCHERS, build, present_options
from search.tracking import read

NAMES = [*sorted(SEARCHERS), "ray:OptunaSearch", "ray:random"]
ALL_SEARCHERS = pytest.mark.parametrize("name", NAMES)
OPTIONS = {"haq": {"updates": 2}, "haq+": {"updates": 2, "imitate": 2}}
"""An agent learns from as many episodes, by fewer gradient steps: what is tested does not depend on how well it learns."""


def toy(*, limit: float | None = 0.5, objectives: tuple[str, ...] = ("error",), layers: int = 3, choices: int = 4) -> Problem:
    """Return `layers` sites of a weight and an activation dimension; cost is a product of bits, the limit a share of the greatest."""
    rng = np.random.default_rng(7)
    bits = np.arange(1, choices + 1, dtype=np.float64)
    latency = tuple(m * np.outer(bits, bits) for m in rng.uniform(1, 4, layers))
    weights = tuple(m * np.repeat(bits[:, None], choices, axis=1) for m in rng.uniform(1, 4, layers))
    tables = {"latency": latency, "weights": weights}
    return Problem(
        cardinalities=(choices,) * (2 * layers),
        objectives=objectives,
        sites=tuple((2 * s, 2 * s + 1) for s in range(layers)),
        site_cost=tables,
        limits={name: limit * sum(float(table.max()) for table in per_site) for name, per_site in tables.items()} if limit else {},
        baselines=tuple((k,) * (2 * layers) for k in range(choices)),
        sensitivity=lambda: losses(layers, choices),
    )


def losses(layers: int, choices: int) -> tuple[FloatArray, ...]:
    """Return the additive losses per dimension of `toy`."""
    rng = np.random.default_rng(8)
    return tuple(scale * (4.0 ** -np.arange(choices) - 4.0 ** -(choices - 1)) for scale in rng.uniform(0.1, 1.0, 2 * layers))


def measure(problem: Problem, values: Values) -> tuple[float, ...]:
    """Return the objectives of a point of `toy`, with an interaction that the sensitivities do not show."""
    tables = losses(len(problem.sites), max(problem.cardinalities))
    error = sum(float(table[v]) for table, v in zip(tables, values, strict=True)) + 0.05 * abs(values[0] - values[-1])
    costs = problem.costs(np.array([values], dtype=np.int64))
    return tuple(error if name == "error" else float(costs[name][0]) for name in problem.objectives)


def run(problem: Problem, searcher: Searcher, evaluations: int) -> list[Values]:
    """Ask and tell one at a time; return the points."""
    points = []
    for _ in range(evaluations):
        trial = searcher.ask()
        if trial is None:
            break
        points.append(trial.values)
        searcher.tell(trial, measure(problem, trial.values))
    return points


def tell_baselines(problem: Problem, searcher: Searcher) -> None:
    for values in problem.baselines:
        searcher.tell(Trial(-1, values), measure(problem, values))


def check(problem: Problem, points: Sequence[Values]) -> None:
    """Fail when a point is outside the space, over a limit, or proposed twice."""
    for values in points:
        assert len(values) == len(problem.cardinalities)
        assert all(type(v) is int and 0 <= v < k for v, k in zip(values, problem.cardinalities, strict=True)), values
        assert problem.feasible(values), values
    assert len(set(points)) == len(points)


PROBLEMS = {
    "one limit, error only": {"limit": 0.4},
    "no limit, error only": {"limit": None},
    "several objectives, no limit": {"limit": None, "objectives": ("error", "latency", "weights")},
    "several objectives under limits": {"limit": 0.5, "objectives": ("error", "latency")},
}


@ALL_SEARCHERS
@pytest.mark.parametrize("kind", PROBLEMS)
def test_proposals_are_legal_new_and_numbered(name: str, kind: str) -> None:
    problem = toy(**PROBLEMS[kind])  # type: ignore[arg-type]
    searcher = build(name, problem, seed=1, trials=30, options=OPTIONS.get(name))
    tell_baselines(problem, searcher)
    points, numbers = [], []
    for _ in range(30):
        trial = searcher.ask()
        if trial is None:
            break
        points.append(trial.values)
        numbers.append(trial.number)
        searcher.tell(trial, measure(problem, trial.values))
    check(problem, points)
    assert numbers == list(range(len(points)))
    assert not set(points) & set(problem.baselines)
    one_answer = name in ("greedy", "ilp") and kind == "no limit, error only"
    assert points or name == "uniform" or one_answer, "their one answer is a baseline"


@ALL_SEARCHERS
def test_several_asks_open_and_tells_out_of_order(name: str) -> None:
    problem = toy()
    searcher = build(name, problem, seed=2, trials=40, options=OPTIONS.get(name))
    rng = np.random.default_rng(0)
    opened: list[Trial] = []
    points = []
    for _ in range(40):
        trial = searcher.ask()
        if trial is not None:
            opened.append(trial)
            points.append(trial.values)
        if len(opened) > 4 or trial is None:
            if not opened:
                break
            chosen = opened.pop(int(rng.integers(len(opened))))
            searcher.tell(chosen, measure(problem, chosen.values))
    check(problem, points)
    assert points or name == "uniform"  # whose points are the baselines


@ALL_SEARCHERS
def test_all_asks_open_at_once(name: str) -> None:
    problem = toy()
    searcher = build(name, problem, seed=2, trials=12, options=OPTIONS.get(name))
    trials = [trial for trial in (searcher.ask() for _ in range(12)) if trial is not None]
    check(problem, [trial.values for trial in trials])
    assert not {trial.values for trial in trials} & set(problem.baselines), "they may be under way elsewhere"
    for trial in reversed(trials):
        searcher.tell(trial, measure(problem, trial.values))
    more = searcher.ask()
    assert more is None or more.values not in {trial.values for trial in trials}


@ALL_SEARCHERS
def test_failed_trials_are_survived_and_not_repeated(name: str) -> None:
    problem = toy()
    searcher = build(name, problem, seed=3, trials=24, options=OPTIONS.get(name))
    points = []
    for index in range(24):
        trial = searcher.ask()
        if trial is None:
            break
        points.append(trial.values)
        searcher.tell(trial, None if index % 2 == 0 else measure(problem, trial.values))
    check(problem, points)
    assert points or name == "uniform"


@ALL_SEARCHERS
def test_same_seed_and_calls_give_the_same_proposals(name: str) -> None:
    problem = toy()

    def points(seed: int, disturb: bool) -> list[Values]:
        searcher = build(name, problem, seed=seed, trials=40, options=OPTIONS.get(name))
        tell_baselines(problem, searcher)
        proposed = []
        for _ in range(40):
            if disturb:
                np.random.seed(1)
                np.random.random(3)
            trial = searcher.ask()
            if trial is None:
                break
            proposed.append(trial.values)
            searcher.tell(trial, measure(problem, trial.values))
        return proposed

    assert points(5, disturb=False) == points(5, disturb=True)


@ALL_SEARCHERS
def test_small_space_is_searched_to_its_end(name: str) -> None:
    problem = toy(layers=1, choices=3, limit=0.6)
    every = [(w, a) for w in range(3) for a in range(3)]
    feasible = {values for values in every if problem.feasible(values)}
    assert 2 < len(feasible) < len(every)
    searcher = build(name, problem, seed=0, trials=20, options=OPTIONS.get(name))
    points = run(problem, searcher, 20)
    check(problem, points)
    assert searcher.ask() is None
    if name in EXHAUSTIVE:
        assert set(points) == feasible - set(problem.baselines)


EXHAUSTIVE = set(NAMES) - {"uniform", "ilp", "greedy"}


@ALL_SEARCHERS
def test_limit_that_nothing_keeps_is_refused(name: str) -> None:
    problem = toy()
    below = {"latency": 0.1, "weights": 100.0}
    with pytest.raises(InputError, match=r"limit latency = 0.1 cannot be kept: the cheapest choices take .*Raise the limit"):
        build(name, Problem(problem.cardinalities, ("error",), problem.sites, problem.site_cost, limits=below))


@ALL_SEARCHERS
def test_unknown_option_is_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(InputError, match=rf"searcher '{re.escape(name)}' has no option 'reapir'; it takes "):
        build(name, toy(), options={"reapir": "none"})


def test_unknown_searcher_and_bad_trials_are_refused() -> None:
    with pytest.raises(InputError, match=r"unknown searcher 'tpee'; known: .*tpe.*Did you mean 'tpe'"):
        build("tpee", toy())
    with pytest.raises(InputError, match="trials = 0 given; at least 1"):
        build("random", toy(), trials=0)
    with pytest.raises(InputError, match="unknown repair 'fill'; known: greedy, greedy_then_refill, haq, none, random"):
        build("random", toy(), options={"repair": "fill"})


def test_a_users_own_searcher_is_built() -> None:
    searcher = build("search.searchers.random:RandomSearcher", toy(), seed=1, trials=3, options={"repair": "haq"})
    assert searcher.ask() == Trial(0, searcher_values(searcher))


def searcher_values(searcher: Searcher) -> Values:
    """Return the first proposal of a searcher that is built alike."""
    twin = build("random", toy(), seed=1, trials=3, options={"repair": "haq"}).ask()
    assert twin is not None
    return twin.values


@pytest.mark.parametrize(("former", "name"), FORMER_NAMES.items())
def test_a_former_name_of_a_repair_proposes_the_same_and_is_recorded_by_its_present_one(former: str, name: str) -> None:
    problem = toy()
    searchers = [build("swap", problem, seed=1, trials=8, options={"repair": repair, "start": False}) for repair in (former, name)]
    first, second = (run(problem, searcher, 8) for searcher in searchers)
    assert first == second
    assert present_options("swap", {"repair": former, "start": False}) == {"repair": name, "start": False}
    assert present_options("ray:random", {"repair": former}) == {"repair": name}
    assert present_options("mine:Searcher", {"repair": former}) == {"repair": former}, "a user's own searcher may mean something else"


def test_a_sweep_records_the_present_name_of_a_repair(sweep: Callable[..., str], tmp_path: Path) -> None:
    options = '[search.options]\nrepair = "smart_wall"'
    choices = '["int8:channel", "int4:channel"]'
    uri = sweep(tmp_path, evaluate=options, name="renamed", task="own_task:make", weight=choices, activation='"float"', trials=3)
    assert 'repair = "greedy"' in read(uri, "renamed").experiment
