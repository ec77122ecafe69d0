"""The integer program over the sensitivities: fronts, and its k best points."""

import numpy as np
import pytest

from benchmarks.searchers_problems import cases, digits_front, front_reference
from benchmarks.searchers_run import run
from search.problem.pareto import hypervolume
from search.searchers import build

P4 = cases(("P4",))


def test_topk_and_pairwise_get_past_the_best_sum_of_sensitivities() -> None:
    case = P4[1]
    first = run(case.problem, case.measure, "ilp", seed=0, evaluations=1).error
    assert run(case.problem, case.measure, "ilp_topk", seed=0, evaluations=20).error < first
    assert run(case.problem, case.measure, "pairwise", seed=0, evaluations=60).error < first


@pytest.mark.parametrize("name", ["ilp", "greedy"])
def test_an_epsilon_sweep_traces_the_front(name: str) -> None:
    problem, measure, best = digits_front()
    agent = build(name, problem, trials=30)
    points = []
    while (trial := agent.ask()) is not None:
        cost = float(problem.costs(np.array([trial.values], dtype=np.int64))["size"][0])
        points.append((measure(trial.values), cost))
        agent.tell(trial, points[-1])
    assert 10 <= len(points) <= 30
    assert hypervolume(np.array(points), front_reference(problem)) > 0.9 * best
