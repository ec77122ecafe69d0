"""Evolution: fronts that NSGA-II does not reach, optima of the measured table, and the share of the screen in them."""

import numpy as np
import pytest

from benchmarks.searchers_problems import cases, digits_front
from benchmarks.searchers_run import front_run, run
from quant_core.util.errors import InputError
from search.problem.problem import Problem
from search.searchers import build

P4 = cases(("P4",))


def test_the_front_at_100_evaluations_is_within_a_percent_of_the_best_and_above_nsga2() -> None:
    problem, measure, best = digits_front()
    volumes = {name: front_run(problem, measure, name, seed=0, evaluations=100, options={}, at=(50, 100)) for name in ("evo", "nsga2")}
    assert volumes["evo"][100] > 0.99 * best
    assert volumes["evo"][50] > volumes["nsga2"][100]


def test_the_exact_optima_of_the_measured_table() -> None:
    for case in P4:
        assert run(case.problem, case.measure, "evo", seed=0, evaluations=200, enough=case.best).error == case.best


def test_the_screen_saves_evaluations_of_a_cold_start() -> None:
    regrets = {}
    for screen in (1, 400):
        traces = [run(case.problem, case.measure, "evo", seed=1, evaluations=50, options={"warm": 0, "screen": screen}) for case in P4]
        regrets[screen] = np.mean([(trace.error - case.best) / (case.uniform - case.best) for trace, case in zip(traces, P4, strict=True)])
    assert regrets[400] < 0.5 * regrets[1]


def test_every_point_of_a_small_space_is_proposed_once() -> None:
    tables = tuple(np.arange(3.0) for _ in range(3))
    problem = Problem((3, 3, 3), ("error", "bytes"), ((0,), (1,), (2,)), {"bytes": tables}, {"bytes": 4.0})
    searcher, points = build("evo", problem, trials=40), []
    while (trial := searcher.ask()) is not None:
        points.append(trial.values)
        searcher.tell(trial, (float(sum((2 - v) ** 2 for v in trial.values)), float(sum(trial.values))))
    assert len(points) == len(set(points)) == 23


@pytest.mark.parametrize(("option", "value"), [("population", 0), ("warm", -1), ("screen", 0)])
def test_an_option_below_its_least_value_is_refused(option: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{option} = {value} given; at least"):
        build("evo", P4[0].problem, options={option: value})
