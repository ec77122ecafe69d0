"""HAQ (Wang et al., CVPR 2019, arXiv 1811.08886): a DDPG agent that chooses the bits of one layer after the other."""

from collections.abc import Sequence

import numpy as np

from search.problem.problem import FloatArray, Problem, Trial, Values
from search.problem.repair import Repairer
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses_for
from search.searchers.base.targets import random_limits, with_limits
from search.searchers.haq.agent import OffPolicyAgent
from search.searchers.haq.saved import SavedAgent, read_agent
from search.searchers.haq.state import episode_setup

SIGMA, SIGMA_TAUGHT = 0.5, 0.2
REWARD_SCALE = 10.0
"""0.1 x accuracy in percent (section 3.5 of the paper), as errors in [0, 1]."""


class HaqSearcher:
    """The paper's agent: one episode is one policy, its final reward is given to every step, a policy over budget is repaired.

    Known defects of the public code are not repeated: the executed action is what the buffer holds, actions map to choices by
    floor(a K), rewards are of the validation split.

    Options:
        repair: how a policy over the budget is brought back; the paper's by default.
        warmup: episodes of random actions (at most a fifth of the trials); none where an agent is given.
        sigma, decay: truncated normal noise of sigma * decay ** (episode - warmup); sigma is 0.5, or 0.2 where an agent is given.
        buffer: episodes in the replay buffer.
        updates: gradient steps per episode, at most one per step of the episode (the paper: one per step).
        agent: a file of `bitfront agent save`: the agent begins with what that one learned on another network (section 4.3 of the paper).
    """

    def __init__(
        self, problem: Problem, *, seed: int, trials: int, repair: str = "haq", warmup: int = 20,
        sigma: float | None = None, decay: float = 0.99, buffer: int = 64, updates: int = 10, agent: str = "",
    ) -> None:  # fmt: skip
        self._problem = problem
        self._repair = repair
        self._losses = losses_for(problem, repair)
        self._history = ProposalHistory(problem, seed, Repairer(problem, repair, self._losses))
        self._setup = episode_setup(problem, tuple(np.zeros(k) for k in problem.cardinalities), full=False)
        steps = len(problem.cardinalities)
        self._agent = OffPolicyAgent("ddpg", self._setup.static.shape[1] + 1, seed=seed, buffer=buffer * steps, gamma=1.0)
        self._warmup, self._decay = min(warmup, max(1, trials // 5)), decay
        self._sigma = (SIGMA_TAUGHT if agent else SIGMA) if sigma is None else sigma
        if agent:
            self._start_from(agent)
        self._updates = min(updates, steps)
        self._episode = 0
        self._average: float | None = None

    def _start_from(self, path: str) -> None:
        """Take the networks of a saved agent, which needs no random episodes."""
        taught = read_agent(path)
        taught.check(self.inputs, {name: tuple(tensor.shape) for name, tensor in self._agent.weights.items()}, path)
        self._agent.start_from(taught.weights)
        self._warmup = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the columns of the agent's state."""
        return (*self._setup.names, "previous action")

    def saved(self, source: str) -> SavedAgent:
        """Return the agent as it is now, in the sweep `source`."""
        return SavedAgent({name: tensor.clone() for name, tensor in self._agent.weights.items()}, self.inputs, source)

    def ask(self) -> Trial | None:
        """Run one episode; return its policy, repaired and new, or None when all are proposed."""
        wanted, previous = [0] * len(self._problem.cardinalities), 0.0
        for d in self._setup.order:
            action = self._act(np.append(self._setup.static[d], previous))
            wanted[d] = choice_of(action, self._problem.cardinalities[d])
            previous = action
        self._episode += 1
        values = self._history.fresh(self._under_random_budget(tuple(wanted)))
        return None if values is None else self._history.open(values)

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Learn from an episode; policies that were not asked for here only set the reference of the reward."""
        self._history.note(trial, objectives)
        if objectives is None:
            return
        reward = self._reward(float(objectives[0]))
        self._average = reward if self._average is None else self._average + 0.5 * (reward - self._average)
        if trial.number >= 0:
            states, actions = self._executed(trial.values)
            learns = self._episode > self._warmup
            self._agent.learn(states, actions, np.full(len(actions), reward - self._average), self._updates if learns else 0)

    def _reward(self, error: float) -> float:
        float_error = self._problem.float_error
        best = min(told[0] for told in self._history.told.values())
        return REWARD_SCALE * ((best if float_error is None else float_error) - error)

    def _act(self, state: FloatArray) -> float:
        rng = self._history.rng
        if self._episode < self._warmup:
            return float(rng.random())
        mean, sigma = self._agent.act(state), self._sigma * self._decay ** (self._episode - self._warmup)
        return truncated_normal(rng, mean, sigma)

    def _under_random_budget(self, values: Values) -> Values:
        """Bring a policy under a budget drawn at random when there are several objectives (a front has no one budget)."""
        if len(self._problem.objectives) == 1:
            return values
        target = with_limits(self._problem, random_limits(self._problem, self._history.rng))
        return Repairer(target, self._repair, self._losses)(values, self._history.rng)

    def _executed(self, values: Values) -> tuple[FloatArray, FloatArray]:
        """Return the states [T, F] and actions [T] of the policy that was evaluated, which repair may have changed."""
        actions = np.array([action_of(values[d], self._problem.cardinalities[d]) for d in self._setup.order])
        previous = np.concatenate([[0.0], actions[:-1]])
        return np.concatenate([self._setup.static[list(self._setup.order)], previous[:, None]], axis=1), actions


def choice_of(action: float, choices: int) -> int:
    """Return floor(a K), at most K - 1: every choice has the same share of [0, 1]."""
    return min(int(action * choices), choices - 1)


def action_of(choice: int, choices: int) -> float:
    """Return the action in the middle of what maps to `choice`."""
    return (choice + 0.5) / choices


def truncated_normal(rng: np.random.Generator, mean: float, sigma: float) -> float:
    """Draw from a normal distribution cut to [0, 1], by rejection; the mean itself when 100 draws fall outside."""
    for sample in rng.normal(mean, sigma, size=100):
        if 0.0 <= sample <= 1.0:
            return float(sample)
    return min(max(mean, 0.0), 1.0)
