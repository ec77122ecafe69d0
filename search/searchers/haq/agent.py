"""Agents of stable-baselines3 without its training loop: no environment is stepped, no thread, and a random state of their own."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from search.problem.problem import FloatArray
from search.searchers.haq.state import MASKED, SHARPNESS

OFF_POLICY = {"ddpg": DDPG, "td3": TD3, "sac": SAC}
ACTOR_RATE, CRITIC_RATE = 1e-4, 1e-3
IMITATION_RATE = 3e-3
NEAR = 1.0
"""Distance in choices over which a choice that is imitated counts for its neighbours."""


class Randomness:
    """A private state of the three global generators that SB3 draws from: set while the agent works, then the caller's is restored."""

    def __init__(self, seed: int) -> None:
        torch_state = torch.Generator().manual_seed(seed).get_state()
        self._state = (torch_state, np.random.RandomState(seed).get_state(), random.Random(seed).getstate())

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Run a block with this state."""
        outside = (torch.get_rng_state(), np.random.get_state(), random.getstate())
        self._set(self._state)
        try:
            yield
        finally:
            self._state = (torch.get_rng_state(), np.random.get_state(), random.getstate())
            self._set(outside)

    def _set(self, state: tuple[Tensor, Any, Any]) -> None:
        torch.set_rng_state(state[0])
        np.random.set_state(state[1])
        random.setstate(state[2])


class _Shapes(gymnasium.Env[Any, Any]):
    """The spaces that SB3 asks for; it is never stepped."""

    def __init__(self, inputs: int, actions: "gymnasium.spaces.Space[Any]") -> None:
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (inputs,), np.float32)
        self.action_space = actions


class _TwoRateDdpg(DDPG):
    """DDPG with the paper's two learning rates; SB3 knows only one."""

    def _update_learning_rate(self, optimizers: Any) -> None:
        for optimizer, rate in zip(optimizers, (ACTOR_RATE, CRITIC_RATE), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate


class OffPolicyAgent:
    """DDPG, TD3 or SAC on one continuous action in [0, 1] per step.

    A full replay buffer overwrites its oldest episode, or with `evict` > 0 one drawn among that share of its episodes, the worst by
    reward (as AutoQ in NNCF does): the best episodes are kept, and not only the latest ones.
    """

    def __init__(self, algorithm: str, inputs: int, *, seed: int, buffer: int, gamma: float, evict: float = 0.0) -> None:
        self._evict, self._rng = evict, np.random.default_rng(seed)
        self.randomness = Randomness(seed)
        box = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        make = _TwoRateDdpg if algorithm == "ddpg" else OFF_POLICY[algorithm]
        with self.randomness():
            self._model = make(
                "MlpPolicy", _Shapes(inputs, box), learning_rate=CRITIC_RATE, buffer_size=buffer, batch_size=64, tau=0.01, gamma=gamma,
                policy_kwargs={"net_arch": [300, 300]}, device="cpu",
            )  # fmt: skip
        self._model.set_logger(Logger(folder=None, output_formats=[]))

    def act(self, state: FloatArray) -> float:
        """Return the actor's action in [0, 1]: (tanh(x) + 1) / 2, which is the paper's sigmoid of 2 x. It draws nothing at random."""
        with torch.no_grad():
            squashed = self._model.policy(torch.as_tensor(state[None], dtype=torch.float32), deterministic=True)
        return (float(squashed) + 1.0) / 2.0

    @property
    def weights(self) -> dict[str, Tensor]:
        """The networks of actor and critic and their targets, by name."""
        return dict(self._model.policy.state_dict())

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Begin with the networks of another agent; the optimizers and the replay buffer begin empty.

        Raises:
            RuntimeError: names or shapes differ.
        """
        self._model.policy.load_state_dict(dict(weights))

    def learn(self, states: FloatArray, actions: FloatArray, rewards: FloatArray, updates: int) -> None:
        """Add one episode ([T, F] states, [T] executed actions, [T] rewards) to the buffer and take `updates` gradient steps."""
        buffer = self._model.replay_buffer
        assert buffer is not None
        if buffer.full and self._evict:
            buffer.pos = len(states) * self._evicted(buffer.rewards.reshape(-1, len(states)).sum(axis=1))
        after = np.concatenate([states[1:], states[-1:]])
        for step, (state, following, action, reward) in enumerate(zip(states, after, actions, rewards, strict=True)):
            scaled = self._model.policy.scale_action(np.array([[action]], dtype=np.float32))
            buffer.add(state[None], following[None], scaled, np.array([reward]), np.array([step == len(states) - 1]), [{}])
        if updates:
            with self.randomness():
                self._model.train(gradient_steps=updates, batch_size=64)

    def _evicted(self, rewards: FloatArray) -> int:
        """Draw the episode to overwrite, given the reward of every one in the buffer."""
        worst = np.argsort(rewards, kind="stable")[: max(1, int(self._evict * len(rewards)))]
        return int(self._rng.choice(worst))


class _GuidedPolicy(ActorCriticPolicy):
    """A categorical policy whose logits are the network's plus the prior's, the last entries of the observation."""

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        distribution, values = self._both(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, values, distribution.log_prob(actions)

    def evaluate_actions(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:  # type: ignore[override]
        distribution, values = self._both(obs)
        return values, distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Tensor) -> Distribution:  # type: ignore[override]
        return self._both(obs)[0]

    def _both(self, obs: Tensor) -> tuple[Distribution, Tensor]:
        latent, latent_value = self.mlp_extractor(obs)
        width = self.action_space.n  # type: ignore[attr-defined]
        logits = self.action_net(latent) + SHARPNESS * obs[:, -width:]
        return self.action_dist.proba_distribution(logits), self.value_net(latent_value)


class PpoAgent:
    """PPO on one discrete choice per step, its mask and prior logits in the last entries of the state."""

    def __init__(self, inputs: int, choices: int, steps: int, *, seed: int, rate: float = 1e-3, entropy: float = 0.01) -> None:
        self.randomness = Randomness(seed)
        with self.randomness():
            self._model = PPO(
                _GuidedPolicy, _Shapes(inputs, gymnasium.spaces.Discrete(choices)), learning_rate=rate, n_steps=steps, batch_size=steps,
                n_epochs=10, gamma=1.0, gae_lambda=1.0, ent_coef=entropy, policy_kwargs={"net_arch": [64, 64]}, device="cpu",
            )  # fmt: skip
        self._model.set_logger(Logger(folder=None, output_formats=[]))
        self._choices = choices
        self._imitation = torch.optim.Adam(self._model.policy.parameters(), IMITATION_RATE)

    def probabilities(self, states: FloatArray) -> FloatArray:
        """Return the policy's probabilities [N, K] in states [N, F]."""
        with torch.no_grad():
            policy = self._model.policy.get_distribution(torch.as_tensor(states, dtype=torch.float32))
        assert isinstance(policy.distribution, torch.distributions.Categorical)
        probabilities: FloatArray = policy.distribution.probs.numpy().astype(np.float64)
        return probabilities

    def learn(self, episodes: Sequence[tuple[FloatArray, FloatArray, float]]) -> None:
        """Take one PPO update from episodes of ([T, F] states, [T] executed choices, reward at the end)."""
        buffer = self._model.rollout_buffer
        buffer.reset()
        for states, choices, reward in episodes:
            observations = torch.as_tensor(states, dtype=torch.float32)
            with torch.no_grad():
                values, log_probs, _ = self._model.policy.evaluate_actions(observations, torch.as_tensor(choices))
            for step in range(len(states)):
                last = step == len(states) - 1
                buffer.add(
                    states[step][None], np.array([[choices[step]]]), np.array([reward if last else 0.0]), np.array([step == 0]),
                    values[step], log_probs[step].reshape(1),
                )  # fmt: skip
        buffer.compute_returns_and_advantage(last_values=torch.zeros(1), dones=np.array([True]))
        with self.randomness():
            self._model.train()

    def imitate(self, states: FloatArray, choices: FloatArray, weights: FloatArray, steps: int) -> None:
        """Take gradient steps towards the `choices` [N] that good episodes made in `states` [N, F], weighted by `weights` [N].

        Self-imitation (Oh et al. 2018, arXiv 1806.05635, eq. 2) with the weights in place of the advantage. Choices are ordered by cost, so
        a neighbour counts too: choice j as exp(-|j - i| / NEAR) of choice i, as far as it is not masked.
        """
        observations = torch.as_tensor(states, dtype=torch.float32)
        away = (torch.arange(self._choices) - torch.as_tensor(choices)[:, None]).abs()
        wanted = torch.exp(-away / NEAR) * ((observations[:, -self._choices :] > MASKED) | (away == 0))
        wanted *= (torch.as_tensor(weights) / wanted.sum(dim=1) / float(weights.sum()))[:, None]
        for _ in range(steps):
            distribution = self._model.policy.get_distribution(observations).distribution
            assert isinstance(distribution, torch.distributions.Categorical)
            self._imitation.zero_grad()
            (-(wanted * distribution.logits).sum()).backward()  # type: ignore[no-untyped-call]
            self._imitation.step()
