"""An episode of the HAQ agent: one step per free dimension, its state at each step, and the choices that still fit the budget."""

from dataclasses import dataclass

import numpy as np

from search.problem.features import PAPER
from search.problem.problem import FloatArray, Problem, Values
from search.problem.repair import TOLERANCE, linearize_limits, padded
from search.searchers.base.targets import Limits, with_limits

MASKED = -1.0
SHARPNESS = 20.0
"""Logits of the prior are stored in [-1, 0] and multiplied by this; a masked choice has -1."""


@dataclass(frozen=True, eq=False)
class EpisodeSetup:
    """The parts of a problem that do not change during an episode.

    Attributes:
        order: the dimensions in the order in which they are decided: site by site.
        losses: [D, K] sensitivities, inf where there is no such choice.
        static: [D, F] in [0, 1]: features of the problem, position, slot, cost and loss per choice.
        names: of its columns, [F].
    """

    problem: Problem
    order: tuple[int, ...]
    losses: FloatArray
    static: FloatArray
    names: tuple[str, ...]


def episode_setup(problem: Problem, losses: tuple[FloatArray, ...], *, full: bool) -> EpisodeSetup:
    """Prepare a problem: the state of the paper, and with `full` further features, costs and losses per choice."""
    width = max(problem.cardinalities, default=1)
    table = padded(losses)
    shown_features, names = _features(problem, full=full)
    parts = [shown_features]
    if full:
        shown = np.where(np.isfinite(table), table, 0.0)
        costs = _unit(slopes(problem, d, width) for d in range(len(problem.cardinalities)))
        parts += [costs, np.sqrt(shown / max(float(shown.max()), 1e-300))]
        names = (*names, *(f"{what} of choice {k}" for what in ("cost", "loss") for k in range(width)))
    return EpisodeSetup(problem, tuple(d for site in problem.sites for d in site), table, np.concatenate(parts, axis=1), names)


def _features(problem: Problem, *, full: bool) -> tuple[FloatArray, tuple[str, ...]]:
    """Return features [D, F] and their names; where the problem has none: site, place in it, and its greatest cost in every metric."""
    if problem.features is not None:
        if not problem.feature_names:
            return problem.features, tuple(f"feature {n}" for n in range(problem.features.shape[1]))
        shown = [n for n, name in enumerate(problem.feature_names) if full or name in PAPER]
        return problem.features[:, shown], tuple(problem.feature_names[n] for n in shown)
    features = np.zeros((len(problem.cardinalities), 2 + len(problem.site_cost)))
    greatest = {metric: [float(table.max()) for table in tables] for metric, tables in problem.site_cost.items()}
    for s, site in enumerate(problem.sites):
        for position, d in enumerate(site):
            costs = [(row[s] - min(row)) / max(max(row) - min(row), 1e-300) for row in greatest.values()]
            features[d] = s / max(len(problem.sites) - 1, 1), position / max(len(site) - 1, 1), *costs
    return features, ("site", "place in the site", *(f"greatest {metric}" for metric in greatest))


def slopes(problem: Problem, dimension: int, width: int) -> FloatArray:
    """Return [K]: the cost of each choice above the cheapest, averaged over the site's other dimensions, summed over limited metrics."""
    total = np.zeros(problem.cardinalities[dimension])
    s = next(n for n, site in enumerate(problem.sites) if dimension in site)
    position = problem.sites[s].index(dimension)
    for metric in problem.limits or problem.site_cost:
        table = problem.site_cost[metric][s]
        line = table.mean(axis=tuple(axis for axis in range(table.ndim) if axis != position))
        whole = sum(float(table.max()) for table in problem.site_cost[metric])
        total += (line - line.min()) / max(whole, 1e-300)
    return np.concatenate([total, np.zeros(width - len(total))])


class Episode:
    """One pass over the dimensions: the choices so far, and the budget that is left."""

    def __init__(self, setup: EpisodeSetup, limits: Limits) -> None:
        self.target = with_limits(setup.problem, limits)
        self._setup = setup
        self._linear = linearize_limits(self.target)
        self._least = np.array([[float(table.min()) for table in tables] for tables in self._linear.tables]).reshape(
            len(limits), len(setup.problem.sites)
        )
        self._spent = np.zeros(len(limits))
        self._left: float | None = None
        self._chosen: dict[int, int] = {}
        self._site = {d: s for s, site in enumerate(setup.problem.sites) for d in site}

    def fits(self, dimension: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Return [K]: the choices after which every limit can still be kept, each taken alone; the cheapest if there is none."""
        after = self._after(dimension)
        if not len(after):
            return np.ones(self.target.cardinalities[dimension], dtype=np.bool_)
        over = np.maximum(after - self._linear.budget[:, None], 0.0).sum(axis=0)
        fits: np.ndarray[tuple[int], np.dtype[np.bool_]] = over <= max(float(over.min()), TOLERANCE)
        return fits

    def choose(self, dimension: int, choice: int) -> None:
        """Decide one dimension."""
        self._chosen[dimension] = choice
        s = self._site[dimension]
        site = self.target.sites[s]
        if dimension == site[-1]:
            at = tuple(self._chosen[d] for d in site)
            self._spent = self._spent + np.array([tables[s][at] for tables in self._linear.tables])
            self._left = None

    def left(self) -> float:
        """Return the share of the scarcest budget that is not spent yet, in [0, 1]."""
        if self._left is None:
            budget = self._linear.budget
            shares = (budget - self._spent) / np.where(np.abs(budget) > TOLERANCE, np.abs(budget), 1.0)
            self._left = min(1.0, max(0.0, float(shares.min()))) if len(shares) else 1.0
        return self._left

    @property
    def values(self) -> Values:
        """Return the point that was chosen."""
        return tuple(self._chosen[d] for d in range(len(self.target.cardinalities)))

    def _after(self, dimension: int) -> FloatArray:
        """Return [M, K]: the least use of each budget after each choice."""
        s = self._site[dimension]
        site = self.target.sites[s]
        prefix = tuple(self._chosen[d] for d in site[: site.index(dimension)])
        rest = self._least[:, s + 1 :].sum(axis=1) + self._spent
        lines = [tables[s][prefix] for tables in self._linear.tables]
        least: FloatArray = np.array([line.reshape(len(line), -1).min(axis=1) for line in lines])
        return least + rest[:, None] if len(least) else least


def prior_logits(setup: EpisodeSetup, limits: Limits, strength: float) -> FloatArray:
    """Return prior logits [D, K] <= 0, -(loss + price * cost), the price such that their argmax meets the budget.

    The Lagrangian of the allocation problem; `strength` is the range of the logits of the median dimension.
    """
    target = with_limits(setup.problem, limits)
    width = setup.losses.shape[1]
    cost = np.stack([slopes(target, d, width) for d in range(len(setup.losses))])
    legal = np.isfinite(setup.losses)
    loss = np.where(legal, setup.losses, 0.0)

    def logits(price: float) -> FloatArray:
        energy = loss + price * cost
        energy = np.where(legal, energy - np.min(np.where(legal, energy, np.inf), axis=1, keepdims=True), 0.0)
        scale = max(float(np.median(energy.max(axis=1))), 1e-300)
        values: FloatArray = np.where(legal, -np.minimum(strength * energy / scale, SHARPNESS), -SHARPNESS)
        return values

    limited = linearize_limits(target)
    if not len(limited.budget):
        return logits(0.0)
    low, high = -12.0, 12.0
    size = max(float(loss.max()), 1e-300) / max(float(cost.max()), 1e-300)
    for _ in range(30):
        middle = (low + high) / 2
        point = logits(size * 10**middle).argmax(axis=1)
        low, high = (low, middle) if (limited.used([int(k) for k in point]) <= limited.budget).all() else (middle, high)
    return logits(size * 10**high)


def _unit(rows: object) -> FloatArray:
    table = np.stack(list(rows))  # type: ignore[call-overload]
    scaled: FloatArray = table / max(float(table.max()), 1e-300)
    return scaled
