"""The budgets of an epsilon sweep."""

import pytest

from benchmarks.searchers_problems import digits_front
from search.searchers.base.targets import epsilon_limits, van_der_corput


def test_epsilon_limits_go_from_coarse_to_fine_within_the_limits() -> None:
    assert van_der_corput(5).tolist() == [1.0, 0.5, 0.25, 0.75, 0.125]
    problem, _, _ = digits_front()
    low, high = 2 * 25280.0, 8 * 25280.0
    limits = [limits["size"] for limits in epsilon_limits(problem, 3)]
    assert limits == pytest.approx([high, (low + high) / 2, low + (high - low) / 4])
