"""The uniform policies as a searcher."""

import pytest

from benchmarks.searchers_problems import cases
from benchmarks.searchers_run import run

P4 = cases(("P4",))


@pytest.mark.parametrize("case", cases(("P4", "P5")), ids=lambda case: f"{case.family} {case.name}")
def test_uniform_finds_the_best_uniform_point_where_none_is_told(case: object) -> None:
    assert run(case.problem, case.measure, "uniform", seed=0, evaluations=100, baselines=False).error == case.uniform
