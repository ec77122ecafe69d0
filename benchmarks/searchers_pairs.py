"""P6: made-up networks whose layers choose a pair of weight and activation bits under two limits, as HAQ's agent does on a device.

Twenty to 52 layers, 10 to 25 pairs. Sizes, multiply-accumulates and losses are log-normal; the true loss of a pair is
a * 4^-w + b * 4^-a, times a log-normal factor that the sensitivities do not know. The loss is additive, so the optimum is proven.
"""

from collections.abc import Callable

import numpy as np

from search.problem.problem import FloatArray, IntArray, Problem, Values
from search.searchers.solvers.ranking import best

SHAPES = ((20, 10), (32, 16), (44, 20), (52, 25))
BITS = (2, 3, 4, 6, 8)
SHARES = {"size": 0.3, "cycles": 0.35}
"""Limits, as shares of the way from the cheapest policy to the most expensive one."""
UNKNOWN = 0.3
"""Spread (log-normal) of the true loss of a pair around what the bits say, and of the sensitivities around the same."""


def pairs_problem(layers: int, pairs: int) -> tuple[Problem, Callable[[Values], float], Values]:
    """Return the problem of `layers` x `pairs`, its measured error and its proven optimum."""
    rng = np.random.default_rng(1000 * layers + pairs)
    bits = _pairs(pairs)
    weights, macs, rises = (rng.lognormal(0.0, spread, layers) for spread in (1.2, 1.0, 1.5))
    rise = rises[:, None] * (4.0 ** -bits[:, 0] + rng.lognormal(-1.0, 0.5, layers)[:, None] * 4.0 ** -bits[:, 1])
    loss, guess = (rise * rng.lognormal(0.0, UNKNOWN, rise.shape) for _ in range(2))
    tables = {"size": np.outer(weights, bits[:, 0]), "cycles": np.outer(macs, bits[:, 0] * bits[:, 1])}
    order = np.argsort(sum(table / table.sum() for table in tables.values()), axis=1, kind="stable")
    loss, guess, *costs = (np.take_along_axis(table, order, axis=1) for table in (loss, guess, *tables.values()))
    site_cost = {name: tuple(table) for name, table in zip(tables, costs, strict=True)}
    problem = Problem(
        cardinalities=(pairs,) * layers,
        objectives=("error",),
        sites=tuple((layer,) for layer in range(layers)),
        site_cost=site_cost,
        limits={name: _limit(site_cost[name], share) for name, share in SHARES.items()},
        baselines=tuple(tuple(int(np.flatnonzero(row == k)[0]) for row in order) for k in range(pairs)),
        sensitivity=lambda: tuple(guess),
    )
    answer = best(problem, tuple(loss))
    assert answer is not None
    return problem, lambda values: float(loss[np.arange(layers), list(values)].sum()), answer


def _pairs(count: int) -> IntArray:
    """Return `count` of the 25 pairs (w, a) of `BITS`, spread evenly over them from the cheapest to the most expensive."""
    every = sorted(((w, a) for w in BITS for a in BITS), key=lambda pair: (pair[0] * pair[1], pair))
    return np.array([every[round(n * (len(every) - 1) / (count - 1))] for n in range(count)])


def _limit(tables: tuple[FloatArray, ...], share: float) -> float:
    low, high = (float(sum(end(table) for table in tables)) for end in (np.min, np.max))
    return low + share * (high - low)
