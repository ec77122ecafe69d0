"""TPE with and without warm points."""

import pytest

from benchmarks.searchers_problems import cases
from benchmarks.searchers_run import run

P1 = cases(("P1",))


def test_warm_tpe_is_ahead_of_cold_tpe_on_an_additive_problem() -> None:
    case = P1[4]
    warm = run(case.problem, case.measure, "tpe", seed=0, evaluations=20)
    cold = run(case.problem, case.measure, "tpe", seed=0, evaluations=20, options={"warm": 0})
    assert warm.error == pytest.approx(case.best, abs=1e-12)
    assert cold.error > warm.error
