"""The actions of the HAQ agent."""

import numpy as np

from search.searchers.haq.searcher import action_of, choice_of, truncated_normal


def test_actions_share_the_unit_interval_evenly_and_round_trip() -> None:
    assert [choice_of(action, 4) for action in (0.0, 0.24, 0.25, 0.5, 0.99, 1.0)] == [0, 0, 1, 2, 3, 3]
    assert all(choice_of(action_of(k, 7), 7) == k for k in range(7))
    drawn = [truncated_normal(np.random.default_rng(seed), 0.9, 0.5) for seed in range(200)]
    assert 0.0 <= min(drawn) < 0.3
    assert 0.9 < max(drawn) <= 1.0
