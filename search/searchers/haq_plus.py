"""haq+: the HAQ walk with a budget mask, a guide from the sensitivities, integer-program warm-up and a reward that keeps its scale."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quant_core.registry import unknown
from search.problem import FloatArray, Problem, Trial, Values
from search.repair import Repairer, padded
from search.searchers.haq import centre, chosen, truncated_normal
from search.searchers.haq_agent import OFF_POLICY, OffPolicyAgent, PpoAgent
from search.searchers.haq_state import MASKED, SHARPNESS, Episode, course, guide
from search.searchers.ledger import Ledger
from search.searchers.losses import losses
from search.searchers.model import compressed
from search.searchers.targets import Limits, random_limits, under
from search.searchers.warm import warm_points

ALGORITHMS = ("ppo", *OFF_POLICY)


@dataclass(frozen=True, eq=False)
class _Walk:
    """An episode that waits for its reward: states [T, F] and executed choices [T]."""

    states: FloatArray
    choices: FloatArray


class HaqPlusSearcher:
    """The agent decides site by site among the choices that still fit the budget.

    The reward comes at the end: minus the error, compressed and scaled by the spread of all errors told so far, so that its size does
    not depend on the problem. What the buffer holds is the policy that was evaluated, repaired or not.

    Options:
        algorithm: ppo (discrete choices, masked), ddpg, td3 or sac (one continuous action in [0, 1] per step).
        repair: what follows the mask; the mask alone keeps any one limit, but not always several at once.
        strength: how much the first episodes follow the sensitivities (0: not at all).
        warm: episodes taken from the integer program, at most a tenth of the trials.
        batch: new episodes per PPO update.
        elite: best episodes so far that each PPO update sees again (at most `batch`).
        candidates: actions drawn per step by the other algorithms; the one that the guide likes best is taken.
        updates: their gradient steps per episode.
    """

    def __init__(
        self, problem: Problem, *, seed: int, trials: int, algorithm: str = "ppo", repair: str = "smart_wall", strength: float = 1.0,
        warm: int = 10, batch: int = 5, elite: int = 5, candidates: int = 5, updates: int = 10,
    ) -> None:  # fmt: skip
        if algorithm not in ALGORITHMS:
            raise unknown("algorithm of haq+", algorithm, ALGORITHMS)
        tables = losses(problem)
        self._problem, self._repair, self._losses = problem, repair, padded(tables)
        self._ledger = Ledger(problem, seed, Repairer(problem, repair, self._losses))
        self._warm = warm_points(self._ledger, min(warm, trials // 10))
        self._way = course(problem, tables, full=True)
        self._strength, self._batch, self._elite = strength, batch, min(elite, batch)
        self._candidates, self._updates = candidates, updates
        self._sigma, self._fade = 0.5, 0.05 ** (1.0 / trials)
        steps, width = len(problem.cardinalities), max(problem.cardinalities)
        inputs = self._way.static.shape[1] + 2 + width
        self._ppo = PpoAgent(inputs, width, steps * (batch + self._elite), seed=seed) if algorithm == "ppo" else None
        self._other = None
        if algorithm != "ppo":
            self._other = OffPolicyAgent(algorithm, inputs, seed=seed, buffer=64 * steps, gamma=1.0 - 1.0 / (5 * steps))
        self._open: dict[int, Limits] = {}
        self._ended: list[tuple[_Walk, float]] = []
        self._best: list[tuple[_Walk, float]] = []
        self._guided: tuple[Limits, FloatArray] | None = None

    def ask(self) -> Trial | None:
        """Return the next policy: warm-up first, then the agent's; None when all are proposed."""
        limits = random_limits(self._problem, self._ledger.rng)
        values = next(self._warm, None)
        if values is None:
            wanted = self._walk(limits, None)[0]
            repairer = Repairer(under(self._problem, limits), self._repair, self._losses)
            values = self._ledger.fresh(repairer(wanted, self._ledger.rng))
        if values is None:
            return None
        trial = self._ledger.open(values)
        self._open[trial.number] = limits
        return trial

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Learn from an episode of ours; others only set the scale of the reward."""
        self._ledger.note(trial, objectives)
        limits = self._open.pop(trial.number, None)
        if limits is None or objectives is None:
            return
        self._sigma *= self._fade
        self._ended.append((self._walk(limits, trial.values)[1], float(objectives[0])))
        if self._ppo and len(self._ended) == self._batch:
            self._best = sorted(self._best + self._ended, key=lambda each: each[1])[: self._elite]
            shown = self._ended + self._best
            rewards = self._rewards([error for _, error in shown])
            self._ppo.learn([(walk.states, walk.choices, reward) for (walk, _), reward in zip(shown, rewards, strict=True)])
            self._ended.clear()
        elif self._other:
            walk, error = self._ended.pop()
            reward = self._rewards([error])[0] / len(walk.choices)
            actions = np.array([centre(int(k), self._problem.cardinalities[d]) for k, d in zip(walk.choices, self._way.order, strict=True)])
            self._other.learn(walk.states, actions, np.full(len(actions), reward), self._updates)

    def _rewards(self, errors: Sequence[float]) -> FloatArray:
        """Return minus the compressed errors, centred and scaled by what was told so far."""
        known = np.array([each[0] for each in self._ledger.told.values()])
        scale = compressed(np.concatenate([known, errors]))
        spread = max(float(scale[: len(known)].std()), 1e-12)
        found: FloatArray = (scale[: len(known)].mean() - scale[len(known) :]) / spread
        return found

    def _walk(self, limits: Limits, values: Values | None) -> tuple[Values, _Walk]:
        """Walk the dimensions, by the agent, or along `values` to see the states on the way."""
        if self._guided is None or self._guided[0] != limits:
            self._guided = (limits, guide(self._way, limits, self._strength))
        episode, logits = Episode(self._way, limits), self._guided[1]
        states, choices, previous = [], [], 0.0
        for d in self._way.order:
            fits = np.zeros(logits.shape[1], dtype=np.bool_)
            fits[: self._problem.cardinalities[d]] = episode.fits(d)
            shown = np.where(fits, logits[d] / SHARPNESS, MASKED)
            state = np.concatenate([self._way.static[d], [previous, episode.left()], shown])
            choice = self._act(state, d, fits, logits[d]) if values is None else values[d]
            episode.choose(d, choice)
            states.append(state)
            choices.append(choice)
            previous = centre(choice, self._problem.cardinalities[d])
        return episode.values, _Walk(np.array(states), np.array(choices))

    def _act(self, state: FloatArray, d: int, fits: np.ndarray[tuple[int], np.dtype[np.bool_]], logits: FloatArray) -> int:
        """Return a choice that fits."""
        rng = self._ledger.rng
        if self._ppo:
            shares = np.where(fits, self._ppo.probabilities(state) + 1e-9, 0.0)
            return int(rng.choice(len(shares), p=shares / shares.sum()))
        assert self._other is not None
        mean, legal = self._other.act(state), np.flatnonzero(fits)
        wanted = [chosen(truncated_normal(rng, mean, self._sigma), self._problem.cardinalities[d]) for _ in range(self._candidates)]
        drawn = [int(legal[np.abs(legal - each).argmin()]) for each in wanted]
        return max(drawn, key=lambda k: float(logits[k]))
