"""All points of a core below a loss, site by site: what proves an answer, or finds a better one."""

from collections.abc import Callable, Sequence

import numpy as np

from search.problem.pareto import BoolArray
from search.problem.problem import FloatArray, IntArray
from search.searchers.solvers.core import ROUNDING, Core

FEW = 500
"""Partial points below which none is compared with another."""
CELLS = {1: 4096, 2: 512, 3: 64}
"""Cells per cost of the grid, by the number of limits."""
MARGIN = 1e-11
"""Share of a budget by which a cost must be less to count as less: more than rounding takes when costs are summed in another order."""
MOST_STATES = 50_000
"""Partial points at a site above which the enumeration ends without an answer."""


def best_below(
    core: Core, upper: float, multipliers: Sequence[FloatArray], accept: Callable[[tuple[int, ...]], bool], dominance: bool
) -> tuple[tuple[int, ...] | None, bool]:
    """Return the accepted point with the least loss of all whose loss is at most `upper`, and whether all of them were looked at.

    Partial points whose Lagrangian bound exceeds `upper` under one of the multipliers are dropped; no other is, so ties and points
    that are not accepted hide nothing.
    """
    price = np.array(multipliers).reshape(len(multipliers), len(core.budget))  # [P, M]
    priced = [price @ costs + losses for losses, costs in zip(core.losses, core.costs, strict=True)]  # [P, J]
    open_sites = [s for s, table in enumerate(core.losses) if len(table) > 1]
    order = sorted(open_sites, key=lambda s: -float(np.sort(priced[s][-1])[:2] @ (-1.0, 1.0)))
    low = np.array([priced[s].min(axis=1) for s in order]).reshape(len(order), len(price))
    rest = np.concatenate([np.cumsum(low[::-1], axis=0)[::-1], np.zeros((1, len(price)))])
    limit = upper + price @ core.budget  # [P]
    limit += ROUNDING * (upper + np.abs(limit) + rest[0])
    loss, cost = np.zeros(1), np.zeros((1, len(core.budget)))
    steps: list[tuple[IntArray, IntArray]] = []
    for n, s in enumerate(order):
        if len(loss) * len(core.losses[s]) > 20 * MOST_STATES:
            return None, False
        loss = np.add.outer(loss, core.losses[s]).ravel()
        cost = (cost[:, None, :] + core.costs[s].T[None]).reshape(len(loss), len(core.budget))
        within = (cost <= core.budget).all(axis=1) & (loss[:, None] + cost @ price.T + rest[n + 1] <= limit).all(axis=1)
        index = np.flatnonzero(within)
        if dominance:
            index = index[~_dominated(loss[index], cost[index], core.budget)]
        if len(index) > MOST_STATES:
            return None, False
        loss, cost = loss[index], cost[index]
        steps.append((index // len(core.losses[s]), index % len(core.losses[s])))
    for last in np.argsort(loss, kind="stable"):
        chosen = _trace(core, order, steps, int(last))
        if accept(chosen):
            return chosen, True
    return None, True


def _trace(core: Core, order: Sequence[int], steps: Sequence[tuple[IntArray, IntArray]], state: int) -> tuple[int, ...]:
    """Return the joint choices of a complete point."""
    chosen = [int(left[0]) for left in core.choices]
    for s, (parent, choice) in zip(reversed(order), reversed(steps), strict=True):
        chosen[s] = int(core.choices[s][choice[state]])
        state = int(parent[state])
    return tuple(chosen)


def _dominated(loss: FloatArray, cost: FloatArray, budget: FloatArray) -> BoolArray:
    """Tell which partial points another one beats in loss and, by more than rounding, in every cost: the least loss per cell of a grid.

    A point is compared with the cells below its own in every cost; of those that share a cell all stay.
    """
    if len(loss) < FEW or len(budget) not in CELLS:
        return np.zeros(len(loss), dtype=np.bool_)
    cells = CELLS[len(budget)]
    high = cost.max(axis=0)
    width = np.where(high > 0, high, 1.0) / (cells - 1)
    at = (cost / width).astype(np.int64)
    below = np.floor((cost - MARGIN * budget) / width).astype(np.int64)  # index -1: the row of inf at the end
    grid = np.full((cells + 1,) * len(budget), np.inf)
    np.minimum.at(grid, tuple(at.T), loss)
    for axis in range(len(budget)):
        inner = np.moveaxis(grid, axis, 0)[:-1]
        np.minimum.accumulate(inner, axis=0, out=inner)
    dominated: BoolArray = grid[tuple(np.maximum(below - 1, -1).T)] < loss
    return dominated
