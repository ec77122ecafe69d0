"""The default searcher: optima, and fronts from the first evaluations on."""

import pytest

from benchmarks.searchers_problems import cases, digits_front
from benchmarks.searchers_run import front_run, run

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
