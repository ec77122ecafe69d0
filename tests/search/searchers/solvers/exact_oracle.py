"""Random allocation problems and their optima by an independent method: a dense table over whole costs, or every point."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.problem.problem import FloatArray, Problem, Values

Whole = NDArray[np.int64]
GRAIN = 2.0**-19
"""Losses are whole numbers of this: a sum of 52 of up to 1.3e8 is a whole number below 2^63."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """One problem: its losses also as whole numbers [K_d] of GRAIN, its least loss in GRAINs (None: no point keeps the limits)."""

    problem: Problem
    losses: tuple[FloatArray, ...]
    whole: tuple[Whole, ...]
    least: int | None

    def loss(self, values: Values) -> int:
        """Return the loss of a point, exactly."""
        return sum(int(table[value]) for table, value in zip(self.whole, values, strict=True))


def draw(seed: int) -> Drawn:
    """Return a problem of 2-52 layers, 2-25 choices, 1-3 limits; by the seed with outliers, ties, peaks, joint sites, infeasible ones."""
    rng = np.random.default_rng(seed)
    layers = int(rng.integers(2, 53)) if seed % 3 else int(rng.integers(2, 7))
    joint = seed % 4 == 1
    shapes = [tuple(int(k) for k in rng.integers(2, 6, 2)) if joint else (int(rng.integers(2, 26)),) for _ in range(layers)]
    sites, cards = [], []
    for shape in shapes:
        sites.append(tuple(range(len(cards), len(cards) + len(shape))))
        cards += shape
    whole = tuple(_losses(rng, k, seed) for k in cards)
    sums = int(rng.integers(1, 4)) - (seed % 5 == 2)
    steps = (120, 40, 14)[max(sums, 1) - 1]
    units = rng.choice([1.0, 4096.0, 1e-3, 1.7e-9], sums)
    costs = [[rng.integers(0, 2 + seed % 7, shape) for shape in shapes] for _ in range(sums)]
    peaks = [rng.integers(1, 9, shape) for shape in shapes] if sums < 3 and (seed % 3 == 1 or not sums) else None
    base = int(rng.integers(0, 3))
    least = [sum(int(table.min()) for table in tables) for tables in costs]
    most = [sum(int(table.max()) for table in tables) for tables in costs]
    room = [int(rng.integers(0, 1 + max(1, min(steps, high - low)))) for low, high in zip(least, most, strict=True)]
    limits = {f"sum{m}": (base + least[m] + room[m]) * units[m] for m in range(sums)}
    tables = {f"sum{m}": tuple(table * units[m] for table in costs[m]) for m in range(sums)}
    bases = {f"sum{m}": base * units[m] for m in range(sums)}
    legal = [np.ones(shape, dtype=bool) for shape in shapes]
    if peaks is not None:
        limits["peak"] = float(max(*(int(table.min()) for table in peaks), rng.integers(3, 9)))
        tables["peak"], bases["peak"] = tuple(table.astype(float) for table in peaks), 1.0
        legal = [table <= limits["peak"] for table in peaks]
    problem = Problem(tuple(cards), ("error",), tuple(sites), tables, limits, bases, frozenset({"peak"} if peaks is not None else ()))
    over = [[table - table.min() for table in tables] for tables in costs] or [[np.zeros(shape, dtype=np.int64) for shape in shapes]]
    answer = _least(shapes, sites, whole, over, room or [0], legal)
    return Drawn(problem, tuple(table * GRAIN for table in whole), whole, answer)


def _losses(rng: np.random.Generator, k: int, seed: int) -> Whole:
    """Return [k] losses: over 12 orders of magnitude, or a handful of whole ones that tie; now and then with an outlier of 1e8."""
    values = rng.integers(0, 5, k) * 0.25 if seed % 5 == 0 else 10 ** rng.uniform(*((-4, 8) if seed % 5 == 1 else (-2, 1)), k)
    if seed % 2 and rng.uniform() < 0.3:
        values[rng.integers(k)] = 1e8
    return np.rint(values / GRAIN).astype(np.int64)


def _least(
    shapes: list[tuple[int, ...]], sites: list[tuple[int, ...]], whole: tuple[Whole, ...], costs: list[list[Whole]], room: list[int],
    legal: list[NDArray[np.bool_]],
) -> int | None:  # fmt: skip
    """Return the least loss: best[c] of the layers so far for every vector c of whole costs above the least, site by site."""
    never = np.iinfo(np.int64).max
    best = np.full([r + 1 for r in room], never)
    best[(0,) * len(room)] = 0
    for s, shape in enumerate(shapes):
        after = np.full_like(best, never)
        for choice in itertools.product(*map(range, shape)):
            step = [int(tables[s][choice]) for tables in costs]
            if not legal[s][choice] or any(c > r for c, r in zip(step, room, strict=True)):
                continue
            loss = sum(int(whole[d][value]) for d, value in zip(sites[s], choice, strict=True))
            source = best[tuple(slice(0, r + 1 - c) for c, r in zip(step, room, strict=True))]
            target = after[tuple(slice(c, None) for c in step)]
            np.minimum(target, np.where(source == never, never, source + loss), out=target, where=source != never)
        best = after
    return None if best.min() == never else int(best.min())
