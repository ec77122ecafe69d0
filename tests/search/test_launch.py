"""What a run says of its time."""

import pytest

from quant_core.util.cache import CacheCounts
from search.sweeps.outcome import Timings


@pytest.mark.parametrize(("workers", "evaluation_s", "idle_s"), [(1, 6.0, 2.5), (2, 6.0, 5.5), (4, 48.0, 0.0)])
def test_idle_is_what_evaluation_search_and_record_leave_of_the_loop(workers: int, evaluation_s: float, idle_s: float) -> None:
    spent = Timings(12.0, 10.0, evaluation_s, 1.0, 0.5, 1.0, workers, 0, 0, 0, CacheCounts(), CacheCounts())
    assert spent.idle_s == idle_s
