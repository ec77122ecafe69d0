"""The choices of a problem that an optimum can still have: the rest is removed by bounds, and what is left is measured from its least.

A choice is removed when the Lagrangian bound with that choice exceeds the loss of a point at hand (reduced-cost fixing, after Pisinger,
European J. of Operational Research 83, 1995), when it breaks a limit beside the cheapest other choices, or when another choice of the
same site is nowhere worse. Losses and costs are then differences to the least that is left: sums of numbers >= 0, whose rounding is
relative to themselves and not to an outlier that was removed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from search.problem.pareto import non_dominated
from search.problem.problem import FloatArray, IntArray, Problem, Values
from search.problem.repair import TOLERANCE, linearize_limits
from search.searchers.solvers.highs import prices

MOST_COMPARED = 1000
"""Joint choices per site up to which dominated ones are taken out before solving."""
ROUNDING = 1e-13
"""Share of the terms of a bound by which rounding may have changed it."""


@dataclass(frozen=True, eq=False)
class Core:
    """What is left of a problem, per site.

    Attributes:
        losses: [J], above the least of the site.
        costs: [M, J], above the least of the site.
        budget: [M], less the least costs of all sites; raised by what rounding may take, so it rejects no point that keeps the limits.
        choices: [J], indices into the site's joint choices, rising.
        rest: [J], what rounding took from `losses`: it counts again when a loss of the same size is subtracted.
    """

    losses: tuple[FloatArray, ...]
    costs: tuple[FloatArray, ...]
    budget: FloatArray
    choices: tuple[IntArray, ...]
    rest: tuple[FloatArray, ...]

    @property
    def size(self) -> int:
        """Return the number of choices that are left, over all sites."""
        return sum(map(len, self.losses))

    @property
    def largest(self) -> float:
        """Return the largest loss of a choice."""
        return max((float(table.max()) for table in self.losses), default=0.0)

    def positions(self, chosen: Sequence[int]) -> list[int] | None:
        """Return where the joint choices `chosen` stand in `choices`; None when one of them was removed."""
        where = [int(np.searchsorted(left, choice)) for left, choice in zip(self.choices, chosen, strict=True)]
        hits = (at < len(left) and left[at] == choice for at, left, choice in zip(where, self.choices, chosen, strict=True))
        return where if all(hits) else None

    def loss(self, chosen: Sequence[int]) -> float:
        """Return the loss of the joint choices `chosen`, all of them left."""
        where = self.positions(chosen)
        assert where is not None
        return float(sum(table[at] for table, at in zip(self.losses, where, strict=True)))

    def keep(self, kept: Sequence[IntArray]) -> "Core":
        """Return the core with these choices of every site, measured from the least of them."""
        losses = [_above_least(table[left], rest[left]) for table, rest, left in zip(self.losses, self.rest, kept, strict=True)]
        costs = [table[:, left] for table, left in zip(self.costs, kept, strict=True)]
        least = [table.min(axis=1, keepdims=True) for table in costs]
        return Core(
            tuple(table for table, _ in losses),
            tuple(table - low for table, low in zip(costs, least, strict=True)),
            self.budget - np.sum(least, axis=0)[:, 0],
            tuple(choices[left] for choices, left in zip(self.choices, kept, strict=True)),
            tuple(rest for _, rest in losses),
        )

    def prices(self) -> FloatArray:
        """Return [M]: the prices of the limits in the linear program, 0 where there is no limit or it fails."""
        if not len(self.budget) or not self.largest:
            return np.zeros(len(self.budget))
        units = np.where(self.budget > 0, self.budget, 1.0)
        rows = np.concatenate(self.costs, axis=1) / units[:, None]
        return prices(np.concatenate(self.losses) / self.largest, rows, self.budget / units, one_hot(self)) * self.largest / units


def one_hot(core: Core) -> csr_array:
    """Return [S, J]: 1 where a choice belongs to a site."""
    lengths = [len(table) for table in core.losses]
    return csr_array((np.ones(core.size), np.arange(core.size), np.concatenate([[0], np.cumsum(lengths)])), shape=(len(lengths), core.size))


def make_core(problem: Problem, losses: Sequence[FloatArray], dominated: bool) -> Core | None:
    """Return the choices that keep the limits beside the cheapest others; None when a site has none.

    Args:
        problem: sites, costs and limits.
        losses: per dimension [K_d]; the loss of a point is their sum.
        dominated: whether choices that another equals or beats in loss and every limited cost stay.
    """
    limits = linearize_limits(problem)
    pieces = [_joint([losses[d] for d in site]) for site in problem.sites]
    joint = [table for table, _ in pieces]
    costs = [np.array([tables[s].ravel() for tables in limits.tables]).reshape(-1, len(table)) for s, table in enumerate(joint)]
    size = 1.0 + np.abs(limits.budget) + sum((np.abs(table.min(axis=1)) for table in costs), np.zeros(len(limits.budget)))
    budget = limits.budget + TOLERANCE + 1e-15 * len(joint) * size
    whole = Core(tuple(joint), tuple(costs), budget, tuple(np.arange(len(table)) for table in joint), tuple(rest for _, rest in pieces))
    kept = [np.flatnonzero(np.isfinite(table)) for table in joint]
    if not dominated:
        kept = [
            _undominated(np.concatenate([_ranks(row, rest)[None], table]).T)
            for row, rest, table in zip(joint, whole.rest, costs, strict=True)
        ]
    return fix(whole.keep(kept), None, []) if all(map(len, kept)) else None


def _undominated(points: FloatArray) -> IntArray:
    """Return the choices [J, 1 + M] of a site that no other equals or beats in loss and every limited cost.

    Rounding a sum is monotone, so what replaces a dominated choice keeps every limit that it keeps, to the last bit.
    """
    finite = np.flatnonzero(np.isfinite(points[:, 0]))
    return finite[non_dominated(points[finite])] if len(finite) <= MOST_COMPARED else finite


def _ranks(table: FloatArray, rest: FloatArray) -> FloatArray:
    """Return [J]: the ranks of the losses in two parts, equal where both parts are; inf where a loss is not finite."""
    order = np.lexsort((rest, table))
    steps = (np.diff(table[order]) > 0) | (np.diff(rest[order]) != 0)
    ranks = np.zeros(len(table))
    ranks[order] = np.concatenate([[0], np.cumsum(steps)])
    return np.where(np.isfinite(table), ranks, np.inf)


def fix(core: Core, best: Sequence[int] | None, multipliers: Sequence[FloatArray]) -> Core | None:
    """Return the core without the choices that no point as good as the joint choices `best` has; None when a site has none left.

    Without `best` only choices go that break a limit beside the cheapest others.
    """
    while True:
        within = [(table <= core.budget[:, None]).all(axis=0) for table in core.costs]
        upper = np.inf if best is None else core.loss(best)
        for price in multipliers:
            priced = [losses + price @ costs for losses, costs in zip(core.losses, core.costs, strict=True)]
            low = [float(table.min()) for table in priced]
            spent = float(price @ core.budget)
            allowed = upper - (sum(low) - spent) + ROUNDING * (upper + sum(low) + abs(spent))
            for s, table in enumerate(priced):
                within[s] &= table - low[s] <= allowed + ROUNDING * table
        kept = [np.flatnonzero(row) for row in within]
        if not all(map(len, kept)) or (core.budget < 0).any():
            return None
        if sum(map(len, kept)) == core.size:
            return core
        core = core.keep(kept)


def joint_losses(problem: Problem, losses: Sequence[FloatArray]) -> list[FloatArray]:
    """Return per site the summed losses of its joint choices, raveled: [prod K_d]."""
    return [_joint([losses[d] for d in site])[0] for site in problem.sites]


def _joint(tables: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Return the sums of one entry per table, raveled [prod K_d], and what rounding took from them."""
    total, rest = np.zeros(()), np.zeros(())
    for table in tables:
        total, lost = two_sum(total[..., None], table)
        rest = rest[..., None] + lost
    return two_sum(total.ravel(), rest.ravel())


def _above_least(table: FloatArray, rest: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return [J] + [J] less the least of the sums, again as two parts."""
    least = int(np.lexsort((rest, table))[0])
    above, lost = two_sum(table, -table[least])
    return two_sum(above, lost + (rest - rest[least]))


def two_sum(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the rounded sums and what rounding took from them, exactly (Knuth, The Art of Computer Programming 2, 4.2.2, theorem B)."""
    total: FloatArray = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


def chosen_of(problem: Problem, point: Values) -> tuple[int, ...]:
    """Return the joint choice of every site at a point."""
    shapes = [tuple(problem.cardinalities[d] for d in site) for site in problem.sites]
    sites = zip(problem.sites, shapes, strict=True)
    return tuple(int(np.ravel_multi_index(tuple(point[d] for d in site), shape)) for site, shape in sites)


def point_of(problem: Problem, chosen: Sequence[int]) -> Values:
    """Return the point of one joint choice per site."""
    values = [0] * len(problem.cardinalities)
    for site, choice in zip(problem.sites, chosen, strict=True):
        for d, value in zip(site, np.unravel_index(choice, tuple(problem.cardinalities[d] for d in site)), strict=True):
            values[d] = int(value)
    return tuple(values)
