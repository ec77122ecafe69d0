"""The number of warm points that searchers propose first."""

import pytest

from benchmarks.searchers_problems import cases, digits_front
from search.problem.problem import Values
from search.problem.repair import Repairer
from search.searchers import build
from search.searchers.base.history import ProposalHistory
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
