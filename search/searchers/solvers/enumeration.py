"""All points of a core below a loss, site by site: what proves an answer, or finds a better one."""

from collections.abc import Callable, Sequence

import numpy as np

from search.problem.problem import FloatArray, IntArray
from search.searchers.solvers.core import ROUNDING, Core

MOST_STATES = 50_000
"""Partial points at a site above which the enumeration ends without an answer."""


def best_below(
    core: Core, upper: float, multipliers: Sequence[FloatArray], accept: Callable[[tuple[int, ...]], bool]
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
