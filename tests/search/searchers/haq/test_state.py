"""The state of the HAQ agents at each step: of the paper, and with more columns."""

import numpy as np

from search.problem.features import BEYOND, PAPER
from search.problem.problem import Problem
from search.searchers.haq.state import episode_setup


def test_the_papers_agent_sees_the_papers_state_only() -> None:
    seen = np.arange(22.0).reshape(2, 11) / 22
    sites = ((0,), (1,))
    cost = {"bytes": (np.array([1.0, 2.0]), np.array([1.0, 4.0]))}
    losses = (np.array([1.0, 0.0]), np.array([0.5, 0.0]))
    problem = Problem((2, 2), ("error",), sites, cost, limits={"bytes": 5.0}, features=seen, feature_names=(*PAPER, *BEYOND))
    assert episode_setup(problem, losses, full=False).static.tolist() == seen[:, :9].tolist()
    assert episode_setup(problem, losses, full=True).static.shape == (2, 11 + 2 + 2)
    plain = Problem((2, 2), ("error",), sites, cost, limits={"bytes": 5.0})
    assert episode_setup(plain, losses, full=False).static.tolist() == [[0, 0, 0], [1, 0, 1]]  # site, place in it, greatest cost
