"""The replay buffer of the off-policy agents: the episodes that a full one overwrites."""

import numpy as np
import pytest

from search.problem.problem import FloatArray
from search.searchers.haq.agent import OffPolicyAgent, PpoAgent
from search.searchers.haq.state import MASKED

STEPS, EPISODES = 2, 10


def kept(evict: float, rewards: list[float], seed: int = 0) -> list[float]:
    """Show an agent with room for ten episodes one episode per reward; return the rewards of the episodes that its buffer holds."""
    agent = OffPolicyAgent("ddpg", 3, seed=seed, buffer=EPISODES * STEPS, gamma=1.0, evict=evict)
    for reward in rewards:
        agent.learn(np.full((STEPS, 3), reward), np.full(STEPS, 0.5), np.full(STEPS, reward), updates=0)
    buffer = agent._model.replay_buffer
    assert buffer is not None
    filled = min(len(rewards), EPISODES)
    held: FloatArray = buffer.rewards.reshape(-1, STEPS)[:filled].astype(np.float64)
    assert (held[:, 0] == held[:, 1]).all(), "an episode is overwritten whole"
    assert (buffer.observations[:, 0, 0].reshape(-1, STEPS)[:filled] == held).all(), "with its states"
    assert (buffer.dones.reshape(-1, STEPS)[:filled] == [0.0, 1.0]).all()
    return [float(reward) for reward in held[:, 0]]


def test_a_full_buffer_keeps_its_best_episodes() -> None:
    rewards = [9.0, 8.0, 7.0, *(0.01 * n for n in range(47))]
    assert {9.0, 8.0, 7.0} <= set(np.round(kept(0.7, rewards), 3))
    assert max(kept(0.0, rewards)) < 1.0, "first in, first out"
    assert min(kept(0.0, rewards)) == pytest.approx(0.37)


def test_the_overwritten_episode_is_drawn_by_seed_and_not_always_the_worst() -> None:
    rewards = [float(n) for n in np.random.default_rng(1).permutation(30)]
    assert kept(0.7, rewards) == kept(0.7, rewards)
    assert kept(0.7, rewards) != kept(0.7, rewards, seed=1)
    assert sorted(kept(0.7, rewards)) != sorted(rewards)[-EPISODES:]


def test_a_buffer_that_is_not_full_keeps_all() -> None:
    assert kept(0.7, [3.0, 1.0, 2.0]) == [3.0, 1.0, 2.0]


def test_imitation_raises_the_imitated_choice_its_neighbours_a_little_and_never_a_masked_one() -> None:
    agent, state = PpoAgent(8, 5, 10, seed=0), np.array([[0.1, 0.2, 0.3, 0.0, 0.0, 0.0, 0.0, MASKED]])
    before = agent.probabilities(state)[0]
    agent.imitate(np.repeat(state, 2, axis=0), np.array([1, 3]), np.array([0.9, 0.1]), 60)
    after = agent.probabilities(state)[0]
    assert after[1] > before[1] + 0.2
    assert after[1] > after[2] > after[3] > 1000 * after[4], (before, after)
