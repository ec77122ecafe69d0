"""The number of warm points that searchers propose first."""

import numpy as np
import pytest

from benchmarks.searchers_problems import cases, digits_front
from search.problem.problem import Problem, Values
from search.problem.repair import Repairer
from search.searchers import build
from search.searchers.base.history import ProposalHistory
from search.searchers.surrogate import warm_start
from search.searchers.surrogate.warm_start import warm_points

P4 = cases(("P4",))


@pytest.mark.parametrize(("name", "under_one_budget"), [("tpe", 4), ("auto", 12)])
@pytest.mark.parametrize("front", [False, True])
def test_few_points_of_the_sensitivities_are_shown_first(name: str, under_one_budget: int, front: bool) -> None:
    problem, shown = (digits_front()[0], 12) if front else (P4[3].problem, under_one_budget)

    def first(count: int) -> list[Values]:
        history = ProposalHistory(problem, 0, Repairer(problem, "none"))
        return [history.open(values).values for values in warm_points(history, count)]

    agent = build(name, problem, trials=300)
    asked = [trial.values for trial in (agent.ask() for _ in range(shown + 4)) if trial is not None]
    assert asked[:shown] == first(shown)
    assert not set(asked) >= set(first(shown + 4))


@pytest.mark.parametrize("objectives", [("error",), ("error", "bytes")])
def test_points_of_a_large_space_are_not_proved(objectives: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    count = warm_start.MANY_SITES + 1
    tables = tuple(np.arange(1.0, 4.0) * (1 + d % 7) for d in range(count))
    rises = tuple(np.array([1.0, 0.2, 0.0]) / (1 + d % 11) for d in range(count))
    limits = {"bytes": sum(float(table[1]) for table in tables)}
    problem = Problem((3,) * count, objectives, tuple((d,) for d in range(count)), {"bytes": tables}, limits, sensitivity=lambda: rises)
    monkeypatch.setattr(warm_start, "ranked", None)
    points = list(warm_points(ProposalHistory(problem, 0, Repairer(problem, "none")), 8))
    assert len(points) >= 6
    assert all(map(problem.feasible, points))
    assert len(set(points)) == len(points)
