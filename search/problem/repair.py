"""Repair operators: turn a point that is over a limit into one that keeps it. One table, used by every searcher."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from quant_core.util.errors import InputError
from quant_core.util.registry import unknown
from search.problem.problem import FloatArray, IntArray, Problem, SitePair, Values

TOLERANCE = 1e-12
"""A limit counts as kept when it is missed by less than this share of itself: the rounding of a sum of floats."""


@dataclass(frozen=True, eq=False)
class LinearLimits:
    """The limits of a problem as sums: sum over sites of tables[m][s] at the site's choices <= budget[m], for each limit m.

    Everything is divided by the limit (a limit of 0: by the largest cost). A peak metric becomes the sum of the sites' excess over the
    limit, with budget 0.

    Attributes:
        problem: whose sites these are.
        tables: per limit, per site an array of shape [K_d for d in site].
        budget: [M].
        pairs: per limit, what pairs of sites use beside the tables.
    """

    problem: Problem
    tables: tuple[tuple[FloatArray, ...], ...]
    budget: FloatArray
    pairs: tuple[tuple[SitePair, ...], ...]

    def used(self, values: Sequence[int]) -> FloatArray:
        """Return the use of each budget by a point, [M]."""
        points = [tuple(values[d] for d in site) for site in self.problem.sites]
        sums = [sum(float(table[point]) for point, table in zip(points, tables, strict=True)) for tables in self.tables]
        joint = self.joint(values)
        more = [sum(float(pair.added[joint[pair.first], joint[pair.second]]) for pair in pairs) for pairs in self.pairs]
        return np.array([alone + paired for alone, paired in zip(sums, more, strict=True)])

    def joint(self, values: Sequence[int]) -> list[int]:
        """Return the joint choice of every site at a point; of none where no limit has pairs."""
        return [self.joint_of(site, values) for site in range(len(self.problem.sites))] if any(self.pairs) else []

    def joint_of(self, site: int, values: Sequence[int]) -> int:
        """Return the joint choice of one site at a point."""
        joint = 0
        for d in self.problem.sites[site]:
            joint = joint * self.problem.cardinalities[d] + values[d]
        return joint


def linearize_limits(problem: Problem) -> LinearLimits:
    """Return the limits of `problem` as sums over its sites.

    Raises:
        InputError: a limit is below what the cheapest choices reach.
    """
    tables, budget, pairs = [], [], list[tuple[SitePair, ...]]()
    for metric, limit in problem.limits.items():
        base = problem.base_cost.get(metric, 0.0)
        scale = abs(limit) or max(float(np.abs(table).max()) for table in problem.site_cost[metric]) or 1.0
        if metric in problem.peak:
            tables.append(tuple(np.maximum(table - limit, 0.0) / scale for table in problem.site_cost[metric]))
            budget.append(-max(base - limit, 0.0) / scale)
        else:
            tables.append(tuple(table / scale for table in problem.site_cost[metric]))
            budget.append((limit - base) / scale)
        pairs.append(tuple(replace(pair, added=pair.added / scale) for pair in problem.pair_cost.get(metric, ())))
        least = sum(float(table.min()) for table in tables[-1])
        if least > budget[-1] + TOLERANCE:
            floor = max(base, *(float(table.min()) for table in problem.site_cost[metric])) if metric in problem.peak else None
            reachable = floor if floor is not None else base + least * scale
            raise InputError(f"limit {metric} = {limit:.6g} cannot be kept: the cheapest choices take {reachable:.6g}. Raise the limit.")
    return LinearLimits(problem, tuple(tables), np.array(budget), tuple(pairs))


class Moves:
    """A point, and by how much every change of one dimension raises the use of each limit; updated one site at a time.

    Attributes:
        values: the point.
        room: [M] budget less use; negative where a limit is broken.
        delta: [M, D, K] rise of each use when dimension d goes to choice k; inf where there is no such choice.
    """

    def __init__(self, limits: LinearLimits, values: Sequence[int]) -> None:
        self._linear = limits
        self._site = {d: s for s, site in enumerate(limits.problem.sites) for d in site}
        self._beside: dict[int, list[tuple[int, int, FloatArray]]] = {}  # site -> (limit, the other site, [J, J of the other])
        for m, pairs in enumerate(limits.pairs):
            for pair in pairs:
                self._beside.setdefault(pair.first, []).append((m, pair.second, pair.added))
                self._beside.setdefault(pair.second, []).append((m, pair.first, pair.added.T))
        self.values = list(values)
        self.room = limits.budget - limits.used(values)
        dimensions = limits.problem.cardinalities
        self.delta = np.full((len(limits.budget), len(dimensions), max(dimensions)), np.inf)
        for site in range(len(limits.problem.sites)):
            self._refresh(site)

    def apply(self, dimension: int, choice: int) -> None:
        """Change one dimension."""
        self.room = self.room - self.delta[:, dimension, choice]
        self.values[dimension] = choice
        for site in (self._site[dimension], *(other for _, other, _ in self._beside.get(self._site[dimension], ()))):
            self._refresh(site)

    def feasible(self) -> bool:
        """Tell whether the point keeps every limit."""
        return bool((self.room >= -TOLERANCE).all())

    def _refresh(self, site: int) -> None:
        dimensions = self._linear.problem.sites[site]
        at: tuple[int | slice, ...] = tuple(self.values[d] for d in dimensions)
        for m, tables in enumerate(self._linear.tables):
            table = tables[site]
            for other, added in ((other, added) for limit, other, added in self._beside.get(site, ()) if limit == m):
                table = table + added[:, self._linear.joint_of(other, self.values)].reshape(table.shape)
            now = table[at]
            for position, d in enumerate(dimensions):
                along = (*at[:position], slice(None), *at[position + 1 :])
                line = table[along]
                self.delta[m, d, : len(line)] = line - now


class Repair(Protocol):
    """Turns a point into one that keeps the limits, or leaves it."""

    def __call__(self, limits: LinearLimits, values: Values, losses: FloatArray, rng: np.random.Generator, /) -> Values:
        """Return the repaired point; `losses` [D, K] estimates the rise of the error per choice (inf: no such choice)."""


def none(_limits: LinearLimits, values: Values, _losses: FloatArray, _rng: np.random.Generator) -> Values:
    """Return the point as it is: it may be over a limit."""
    return values


def haq(limits: LinearLimits, values: Values, losses: FloatArray, rng: np.random.Generator) -> Values:
    """While over budget: from the last layer to the first, activation then weight one step down (HAQ, arXiv 1811.08886, sec. 3.4)."""
    moves = Moves(limits, values)
    while not moves.feasible() and any(moves.values):
        for d in reversed(range(len(values))):
            if moves.values[d]:
                moves.apply(d, moves.values[d] - 1)
            if moves.feasible():
                break
    return greedy(limits, tuple(moves.values), losses, rng)


def random(limits: LinearLimits, values: Values, losses: FloatArray, rng: np.random.Generator) -> Values:
    """While over budget: a dimension drawn at random one step down, which favours no layer."""
    moves = Moves(limits, values)
    while not moves.feasible() and any(moves.values):
        d = int(rng.choice(np.flatnonzero(moves.values)))
        moves.apply(d, moves.values[d] - 1)
    return greedy(limits, tuple(moves.values), losses, rng)


def greedy(limits: LinearLimits, values: Values, losses: FloatArray, _rng: np.random.Generator) -> Values:
    """While over budget: the change with the least loss per cost saved, the saving counted only as far as it is needed."""
    moves, rise = Moves(limits, values), _rise(losses, values)
    while not moves.feasible():
        after = np.maximum(moves.delta - moves.room[:, None, None], 0.0).sum(axis=0)
        saved = np.maximum(-moves.room, 0.0).sum() - after
        helps = saved > TOLERANCE
        if not helps.any():
            break
        score = np.where(helps, rise, np.inf)
        np.divide(score, saved, out=score, where=helps & (rise > 0))
        d, k = _first(score)
        moves.apply(d, k)
        rise[d] = losses[d] - losses[d, k]
    while not moves.feasible() and any(moves.values):  # where pairs add to a limit, no single change may help
        d = next(d for d, value in enumerate(moves.values) if value)
        moves.apply(d, moves.values[d] - 1)
    return tuple(moves.values)


def greedy_then_refill(limits: LinearLimits, values: Values, losses: FloatArray, rng: np.random.Generator) -> Values:
    """Do as `greedy`, then raise choices while they fit, the best gain per cost first (a limit that is kept stays kept)."""
    moves = Moves(limits, greedy(limits, values, losses, rng))
    rise = _rise(losses, moves.values)
    while True:
        fits = (moves.delta <= np.maximum(moves.room, 0.0)[:, None, None]).all(axis=0) & (rise < 0)
        if not fits.any():
            return tuple(moves.values)
        cost = np.maximum(moves.delta, 0.0).sum(axis=0) + 1e-12
        score = np.full(rise.shape, np.inf)
        np.divide(rise, cost, out=score, where=fits)
        d, k = _first(score)
        moves.apply(d, k)
        rise[d] = losses[d] - losses[d, k]


def _rise(losses: FloatArray, values: Sequence[int]) -> FloatArray:
    """Return [D, K]: the rise of the loss when one dimension leaves `values`; inf where there is no such choice."""
    rise: FloatArray = losses - losses[np.arange(len(values)), list(values)][:, None]
    return rise


def _first(score: FloatArray) -> tuple[int, int]:
    d, k = np.unravel_index(int(score.argmin()), score.shape)
    return int(d), int(k)


REPAIRS: dict[str, Repair] = {
    "none": none,
    "haq": haq,
    "random": random,
    "greedy": greedy,
    "greedy_then_refill": greedy_then_refill,
}
FORMER_NAMES = {"haq_wall": "haq", "random_wall": "random", "smart_wall": "greedy", "smart_wall+fill": "greedy_then_refill"}
"""Names of repairs in recorded sweeps and experiment files of earlier versions -> the names they have now."""


def repair_name(name: str) -> str:
    """Return the present name of a repair that may be given by a former one."""
    return FORMER_NAMES.get(name, name)


def uses_losses(name: str) -> bool:
    """Tell whether a repair, by its present or a former name, chooses by the estimated losses."""
    return repair_name(name) in ("greedy", "greedy_then_refill")


def padded(tables: Sequence[FloatArray], fill: float = np.inf) -> FloatArray:
    """Stack per-dimension tables [K_d] into [D, K], `fill` where a dimension has no such choice."""
    width = max((len(table) for table in tables), default=0)
    stacked = np.full((len(tables), width), fill)
    for row, table in zip(stacked, tables, strict=True):
        row[: len(table)] = table
    return stacked


class Repairer:
    """One repair operator, by its present or a former name, bound to a problem and to estimated losses [D, K]."""

    def __init__(self, problem: Problem, name: str, losses: FloatArray | None = None) -> None:
        name = repair_name(name)
        if name not in REPAIRS:
            raise unknown("repair", name, REPAIRS)
        self._limits = linearize_limits(problem)
        self._repair = REPAIRS[name]
        if losses is None:
            losses = padded([-np.arange(k, dtype=np.float64) / k for k in problem.cardinalities])
        self._losses = losses

    def __call__(self, values: Sequence[int], rng: np.random.Generator) -> Values:
        """Return the repaired point; without limits, the point itself."""
        point = tuple(int(v) for v in values)
        return self._repair(self._limits, point, self._losses, rng) if len(self._limits.budget) else point


def infeasible(problem: Problem, points: IntArray) -> IntArray:
    """Return the indices of the points [N, D] that are over a limit."""
    return np.flatnonzero((problem.excess(points) > TOLERANCE).any(axis=1))
