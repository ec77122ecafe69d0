"""The default searcher: optima, and fronts from the first evaluations on."""

import numpy as np
import pytest

from benchmarks.searchers_problems import cases, digits_front
from benchmarks.searchers_run import front_run, run
from search.problem.problem import Problem
from search.searchers import auto

P1 = cases(("P1",))
P4 = cases(("P4",))


@pytest.mark.parametrize("case", P1, ids=lambda case: case.name)
def test_auto_solves_p1_within_25_evaluations(case: object) -> None:
    assert isinstance(case, type(P1[0]))
    trace = run(case.problem, case.measure, "auto", seed=0, evaluations=5)
    assert trace.error == pytest.approx(case.best, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("case", P4, ids=lambda case: case.name)
def test_auto_finds_the_exact_optimum_of_the_measured_table(case: object) -> None:
    assert isinstance(case, type(P4[0]))
    assert run(case.problem, case.measure, "auto", seed=0, evaluations=200).error == case.best


@pytest.mark.parametrize("seed", range(2))
def test_auto_widens_the_front_from_its_first_evaluations_on(seed: int) -> None:
    problem, measure, best = digits_front()
    volumes = front_run(problem, measure, "auto", seed=seed, evaluations=100, options={}, at=(50, 100))
    assert volumes[50] > 0.97 * best
    assert volumes[100] > 0.98 * best


@pytest.mark.parametrize("objectives", [("error",), ("error", "bytes")])
def test_a_large_space_is_searched_without_tpe(objectives: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "AskTellStudy", None)
    count = auto.MOST_DIMENSIONS + 10
    tables = tuple(np.arange(3.0) * (1 + d % 3) for d in range(count))
    rises = tuple(np.array([1.0, 0.2, 0.0]) / (1 + d) for d in range(count))
    limits = {"bytes": sum(float(table[-1]) for table in tables) / 2}
    problem = Problem((3,) * count, objectives, tuple((d,) for d in range(count)), {"bytes": tables}, limits, sensitivity=lambda: rises)
    searcher, points = auto.AutoSearcher(problem, seed=0, trials=24), set()
    for _ in range(24):
        trial = searcher.ask()
        assert trial is not None
        assert problem.feasible(trial.values)
        points.add(trial.values)
        error = sum(float(row[k]) ** 1.5 for row, k in zip(rises, trial.values, strict=True))
        searcher.tell(trial, (error, problem.costs_of(trial.values)["bytes"])[: len(objectives)])
    assert len(points) == 24
