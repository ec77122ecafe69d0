"""haq+: HAQ with a budget mask, prior logits from the sensitivities, integer-program warm-up and a scaled reward."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant_core.util.registry import unknown
from search.problem.problem import FloatArray, Problem, Trial, Values
from search.problem.repair import Repairer, padded
from search.searchers.base.history import ProposalHistory
from search.searchers.base.losses import losses
from search.searchers.base.targets import Limits, random_limits, with_limits
from search.searchers.haq.agent import OFF_POLICY, OffPolicyAgent, PpoAgent
from search.searchers.haq.searcher import action_of, choice_of, truncated_normal
from search.searchers.haq.state import MASKED, SHARPNESS, Episode, episode_setup, prior_logits
from search.searchers.surrogate.model import compressed, fit_to_history
from search.searchers.surrogate.warm_start import warm_points

MOST_STEPS = 220
"""Most steps of the episodes that are run for one proposal, together (but two episodes at least)."""
BoolArray = NDArray[np.bool_]
IMITATED = 5
"""Best policies that the agent imitates."""
ALGORITHMS = ("ppo", *OFF_POLICY)


@dataclass(frozen=True, eq=False)
class _Steps:
    """The steps of one episode: states [T, F] and executed choices [T]."""

    states: FloatArray
    choices: FloatArray


class HaqPlusSearcher:
    """The agent decides site by site among the choices that still fit the budget.

    The reward comes at the end: minus the error, compressed and scaled by the spread of all errors told so far, so that its size does
    not depend on the problem. The buffer holds the policy that was evaluated, repaired or not.

    Options:
        algorithm: ppo (discrete choices, masked), ddpg, td3 or sac (one continuous action in [0, 1] per step).
        repair: applied after the mask, which alone keeps any one limit, but not always several at once.
        strength: range of the prior logits (0: the first episodes do not use the sensitivities).
        warm: episodes taken from the integer program, at most a tenth of the trials.
        batch: new episodes per PPO update.
        elite: best episodes so far that every PPO update contains again (at most `batch`).
        walks: episodes per proposal, half of them with every other step at random; the acquisition function of a second-order model,
            fitted to all told points, picks one (fewer on long episodes).
        surrogate: False leaves that model out: the first new episode is taken, so that what the agent learned is seen alone.
        imitate: gradient steps per episode by which PPO's policy imitates the `IMITATED` best policies told, baselines too (0: none).
        candidates: actions drawn per step by the other algorithms; the one with the greatest prior logit is taken.
        updates: their gradient steps per episode.
        evict: of their 64 episodes of replay, the worst share among which the one to overwrite is drawn (0: the oldest).
    """

    def __init__(
        self, problem: Problem, *, seed: int, trials: int, algorithm: str = "ppo", repair: str = "greedy", strength: float = 1.0,
        warm: int = 10, batch: int = 5, elite: int = 5, walks: int = 16, candidates: int = 5, updates: int = 10,
        evict: float = 0.0, imitate: int = 40, surrogate: bool = True,
    ) -> None:  # fmt: skip
        if algorithm not in ALGORITHMS:
            raise unknown("algorithm of haq+", algorithm, ALGORITHMS)
        self._tables = tables = losses(problem)
        self._walks, self._surrogate, self._imitate = walks, surrogate, imitate
        self._problem, self._repair, self._losses = problem, repair, padded(tables)
        self._history = ProposalHistory(problem, seed, Repairer(problem, repair, self._losses))
        self._warm = warm_points(self._history, min(warm, trials // 10))
        self._setup = episode_setup(problem, tables, full=True)
        self._strength, self._batch, self._elite = strength, batch, min(elite, batch)
        self._candidates, self._updates = candidates, updates
        self._sigma, self._fade = 0.5, 0.05 ** (1.0 / trials)
        steps, width = len(problem.cardinalities), max(problem.cardinalities)
        inputs = self._setup.static.shape[1] + 2 + width
        self._ppo = PpoAgent(inputs, width, steps * (batch + self._elite), seed=seed) if algorithm == "ppo" else None
        self._other = None
        if algorithm != "ppo":
            self._other = OffPolicyAgent(algorithm, inputs, seed=seed, buffer=64 * steps, gamma=1.0 - 1.0 / (5 * steps), evict=evict)
        self._open: dict[int, Limits] = {}
        self._ended: list[tuple[_Steps, float]] = []
        self._best: list[tuple[_Steps, float]] = []
        self._prior: tuple[Limits, FloatArray] | None = None
        self._models: dict[Values, _Steps] = {}

    def ask(self) -> Trial | None:
        """Return the next policy: warm-up first, then the agent's; None when all are proposed."""
        limits = random_limits(self._problem, self._history.rng)
        values = next(self._warm, None)
        if values is None:
            values = self._history.fresh(self._picked(limits))
        if values is None:
            return None
        trial = self._history.open(values)
        self._open[trial.number] = limits
        return trial

    def tell(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Learn from an episode that was proposed here; other points only set the scale of the reward."""
        self._history.note(trial, objectives)
        limits = self._open.pop(trial.number, None)
        if limits is None or objectives is None:
            return
        self._sigma *= self._fade
        self._ended.append((self._retraced(limits, trial.values), float(objectives[0])))
        if self._ppo and self._imitate:
            self._imitate_best(self._ppo, limits)
        if self._ppo and len(self._ended) == self._batch:
            self._best = sorted(self._best + self._ended, key=lambda ended: ended[1])[: self._elite]
            shown = self._ended + self._best
            rewards = self._rewards([error for _, error in shown])
            self._ppo.learn([(steps.states, steps.choices, reward) for (steps, _), reward in zip(shown, rewards, strict=True)])
            self._ended.clear()
        elif self._other:
            steps, error = self._ended.pop()
            reward = self._rewards([error])[0] / len(steps.choices)
            decided = zip(steps.choices, self._setup.order, strict=True)
            actions = np.array([action_of(int(k), self._problem.cardinalities[d]) for k, d in decided])
            self._other.learn(steps.states, actions, np.full(len(actions), reward), self._updates)

    def _imitate_best(self, agent: PpoAgent, limits: Limits) -> None:
        """Let the policy imitate the best points told under `limits`, each by 1/e of the weight of the better one."""
        kept = self._models if len(self._problem.objectives) == 1 else {}
        best = self._history.incumbents(with_limits(self._problem, limits), IMITATED)
        self._models = {values: kept.get(values) or self._retraced(limits, values) for values in best}
        if best:
            weights = np.repeat(np.exp(-np.arange(len(best))), len(self._setup.order))
            states = np.concatenate([steps.states for steps in self._models.values()])
            agent.imitate(states, np.concatenate([steps.choices for steps in self._models.values()]), weights, self._imitate)

    def _picked(self, limits: Limits) -> Values:
        """Run several episodes; return the repaired point with the least lower confidence bound of the error, of the new ones if any."""
        rng, repairer = self._history.rng, Repairer(with_limits(self._problem, limits), self._repair, self._losses)
        count = max(2, min(self._walks, MOST_STEPS // len(self._setup.order))) if self._surrogate else 1
        points = [repairer(values, rng) for values in self._run_episodes(limits, count)]
        points = [point for point in dict.fromkeys(points) if not self._history.seen(point)] or points[:1]
        model = fit_to_history(self._history, self._tables) if self._surrogate else None
        if model is None:
            return points[0]
        mean, deviation = model.predict(np.array(points, dtype=np.int64))
        return points[int(np.argmin(mean - rng.exponential() * deviation))]

    def _rewards(self, errors: Sequence[float]) -> FloatArray:
        """Return minus the compressed errors, centred and scaled by what was told so far."""
        told = np.array([objectives[0] for objectives in self._history.told.values()])
        scale = compressed(np.concatenate([told, errors]))
        spread = max(float(scale[: len(told)].std()), 1e-12)
        rewards: FloatArray = (scale[: len(told)].mean() - scale[len(told) :]) / spread
        return rewards

    def _logits(self, limits: Limits) -> FloatArray:
        """Return the prior logits under `limits`, kept while they do not change."""
        if self._prior is None or self._prior[0] != limits:
            self._prior = (limits, prior_logits(self._setup, limits, self._strength))
        return self._prior[1]

    def _run_episodes(self, limits: Limits, count: int) -> list[Values]:
        """Run `count` episodes of the agent together; in every other one half of the steps are random."""
        rng, logits = self._history.rng, self._logits(limits)
        episodes, previous = [Episode(self._setup, limits) for _ in range(count)], [0.0] * count
        for d in self._setup.order:
            fits = [self._fits(episode, d) for episode in episodes]
            states = np.array([self._state(*step, d, logits) for step in zip(episodes, previous, fits, strict=True)])
            for n, choice in enumerate(self._act(states, d, fits, logits[d])):
                taken = int(rng.choice(np.flatnonzero(fits[n]))) if n % 2 and rng.random() < 0.5 else choice
                episodes[n].choose(d, taken)
                previous[n] = action_of(taken, self._problem.cardinalities[d])
        return [episode.values for episode in episodes]

    def _retraced(self, limits: Limits, values: Values) -> _Steps:
        """Return the states and choices of the episode that ends in `values`, the policy that was evaluated."""
        episode, logits, previous, states = Episode(self._setup, limits), self._logits(limits), 0.0, []
        for d in self._setup.order:
            states.append(self._state(episode, previous, self._fits(episode, d), d, logits))
            episode.choose(d, values[d])
            previous = action_of(values[d], self._problem.cardinalities[d])
        return _Steps(np.array(states), np.array([values[d] for d in self._setup.order]))

    def _fits(self, episode: Episode, d: int) -> BoolArray:
        fits = np.zeros(self._losses.shape[1], dtype=np.bool_)
        fits[: self._problem.cardinalities[d]] = episode.fits(d)
        return fits

    def _state(self, episode: Episode, previous: float, fits: BoolArray, d: int, logits: FloatArray) -> FloatArray:
        shown = np.where(fits, logits[d] / SHARPNESS, MASKED)
        return np.concatenate([self._setup.static[d], [previous, episode.left()], shown])

    def _act(self, states: FloatArray, d: int, fits: list[BoolArray], logits: FloatArray) -> list[int]:
        """Return a choice that fits for each of the states [N, F]."""
        rng, choices = self._history.rng, []
        if self._ppo:
            kept = np.where(np.array(fits), self._ppo.probabilities(states) + 1e-9, 0.0).cumsum(axis=1)
            return draw_choices(rng, kept / kept[:, -1:])
        assert self._other is not None
        for state, allowed in zip(states, fits, strict=True):
            mean, legal = self._other.act(state), np.flatnonzero(allowed)
            wanted = [choice_of(truncated_normal(rng, mean, self._sigma), self._problem.cardinalities[d]) for _ in range(self._candidates)]
            nearest = [int(legal[np.abs(legal - choice).argmin()]) for choice in wanted]
            choices.append(max(nearest, key=lambda k: float(logits[k])))
        return choices


def draw_choices(rng: np.random.Generator, distribution: FloatArray) -> list[int]:
    """Draw one choice from each row of cumulative probabilities [N, K]; one of probability 0 never."""
    return [int(k) for k in (distribution <= rng.random((len(distribution), 1))).sum(axis=1)]
