"""Points near the least additive loss under any limits, in milliseconds for hundreds of layers: prices, then exchanges. No proof.

The choices that are best at the prices of the limits (Everett, Operations Research 11, 1963) leave a gap of about one layer's step; what
room they leave is used by the exchanges of one or two layers that lower the loss most. `exact` and `ranking` prove their answers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from search.problem.problem import FloatArray, IntArray, Problem, Values
from search.problem.repair import TOLERANCE, Repairer, padded
from search.searchers.solvers.core import chosen_of, joint_losses, point_of

HALVINGS = 48
"""Steps of the bisection for the price of one limit."""
CUTS = 60
"""Steps of the ellipsoid method per limit, where several limits bind."""
EXCHANGES = 150
"""Changes of one layer that are tried in pairs: those that raise the priced loss least."""
ROUNDS = 3
"""Most times that a core is solved."""
CORE, SMALL_CORE = 12, 8
"""Sites in one half of a core, with one limit and with another number."""


@dataclass(frozen=True, eq=False)
class _Limited:
    """The choices that may be taken, and what they use of each summed limit.

    Attributes:
        losses: [S, J], inf where a choice is not allowed.
        use: [M, S, J] shares of each limit.
        budget: [M].
    """

    losses: FloatArray
    use: FloatArray
    budget: FloatArray

    def cheapest(self, prices: FloatArray) -> IntArray:
        """Return [S]: the choice of every site that is best at the prices [M]."""
        chosen: IntArray = (self.losses + np.tensordot(prices, self.use, 1)).argmin(axis=1)
        return chosen

    def excess(self, chosen: IntArray) -> FloatArray:
        """Return [M]: use less budget of the choices [S]."""
        excess: FloatArray = self.use[:, np.arange(len(chosen)), chosen].sum(axis=1) - self.budget
        return excess

    def loss(self, chosen: IntArray) -> float:
        """Return the loss of the choices [S]."""
        return float(self.losses[np.arange(len(chosen)), chosen].sum())


class Relaxed:
    """An allocation problem with its tables stacked once, to be solved under many limits."""

    def __init__(self, problem: Problem, losses: Sequence[FloatArray]) -> None:
        self._problem = problem
        self._losses, self._singles = padded(joint_losses(problem, losses)), padded(losses)
        self._costs = {metric: padded([table.ravel() for table in tables], 0.0) for metric, tables in problem.site_cost.items()}

    def near_best(self, limits: Mapping[str, float]) -> Values | None:
        """Return a point under `limits` whose loss is near the least; None where none is known."""
        return next(self.near(limits), None)

    def near(self, limits: Mapping[str, float]) -> Iterator[Values]:
        """Yield the point of `near_best`, then those that differ from it by one exchange, the least loss first."""
        limited = self._limited(limits)
        start = None if limited is None else _priced(limited)
        if limited is None or start is None:
            return
        chosen, prices = start
        chosen = _improved(limited, chosen, prices)
        problem = replace(self._problem, limits=dict(limits))
        if problem.limits_pairs and not problem.feasible(point_of(problem, list(chosen))):  # the sums over sites are lower bounds
            chosen = self._repaired(problem, chosen)
        for candidate in chain([chosen], _exchanged(limited, chosen, prices)):
            point = point_of(problem, list(candidate))
            if problem.feasible(point):
                yield point

    def _repaired(self, problem: Problem, chosen: IntArray) -> IntArray:
        """Return choices [S] made to keep the limits by changes that cost little loss."""
        repairer = Repairer(problem, "greedy_then_refill", self._singles)
        return np.array(chosen_of(problem, repairer(point_of(problem, list(chosen)), np.random.default_rng(0))))

    def _limited(self, limits: Mapping[str, float]) -> _Limited | None:
        losses, use, budget = self._losses.copy(), [], []
        for metric, limit in limits.items():
            base, costs = self._problem.base_cost.get(metric, 0.0), self._costs[metric]
            if metric in self._problem.peak:
                losses[costs > limit + TOLERANCE * abs(limit)] = np.inf
                continue
            unit = abs(limit) or float(np.abs(costs).max()) or 1.0
            use.append(costs / unit)
            budget.append((limit - base) / unit + 0.5 * TOLERANCE)
        if not np.isfinite(losses).any(axis=1).all():
            return None
        return _Limited(losses, np.array(use).reshape(-1, *losses.shape), np.array(budget))


def _priced(limited: _Limited) -> tuple[IntArray, FloatArray] | None:
    """Return choices [S] that keep the limits, and the prices [M] of the limits."""
    count = len(limited.budget)
    free = np.zeros(count)
    chosen = limited.cheapest(free)
    if (limited.excess(chosen) <= 0).all():
        return chosen, free
    singles = []
    for m in range(count):
        answer = _bisected(limited, m)
        if answer is None:
            return None
        if (limited.excess(answer[0]) <= 0).all():
            return answer
        singles.append(float(answer[1][m]))
    return _cut(limited, np.array(singles))


def _bisected(limited: _Limited, m: int) -> tuple[IntArray, FloatArray] | None:
    """Return the choices and prices at the least price of limit `m` alone that keeps it; None where no price does."""
    prices, rows = np.zeros(len(limited.budget)), np.arange(len(limited.losses))

    def at(price: float) -> tuple[IntArray, bool]:
        chosen = (limited.losses + price * limited.use[m]).argmin(axis=1)
        return chosen, bool(limited.use[m, rows, chosen].sum() <= limited.budget[m])

    over, kept = at(0.0)
    if kept:
        return over, prices
    finite = limited.losses[np.isfinite(limited.losses)]
    low, high = 0.0, max(float(np.ptp(finite)), 1e-300) / max(float(np.ptp(limited.use[m])), 1e-300)
    for _ in range(60):
        best, kept = at(high)
        if kept:
            break
        low, high = high, 8 * high
    if not kept:
        return None
    for _ in range(HALVINGS):
        cut = np.flatnonzero(best != over)
        if len(cut) == 1:  # the price at which this site's two choices are equal
            s, one, other = cut[0], best[cut[0]], over[cut[0]]
            high = float((limited.losses[s, one] - limited.losses[s, other]) / (limited.use[m, s, other] - limited.use[m, s, one]))
        if len(cut) == 1 or high - low <= 1e-9 * high:
            break
        middle = (low + high) / 2 if low > high / 8 else max(float(np.sqrt(low * high)), high / 1e3)
        chosen, kept = at(middle)
        low, high, best, over = (low, middle, chosen, over) if kept else (middle, high, best, chosen)
    prices[m] = high
    return best, prices


def _cut(limited: _Limited, scale: FloatArray) -> tuple[IntArray, FloatArray] | None:
    """Return the best choices that keep all limits seen on the way to the best prices, by the ellipsoid method on the dual.

    Shor (Cybernetics 13, 1977), from a ball around half of the prices `scale` [M] that each limit alone would have. Where no choices on the
    way keep all limits, the prices are raised together until they do.
    """
    scale = np.where(scale > 0, scale, max(float(scale.max()), 1e-300))
    count = len(scale)
    center, shape = np.full(count, 0.5), np.eye(count) * 2.0
    best: tuple[float, IntArray, FloatArray] | None = None
    for _ in range(CUTS * count):
        chosen = limited.cheapest(np.maximum(center, 0.0) * scale)
        excess = limited.excess(chosen)
        if (excess <= 0).all() and (best is None or limited.loss(chosen) < best[0]):
            best = limited.loss(chosen), chosen, center * scale
        slope = np.where(center < 0, 1.0, 0.0) if (center < 0).any() else excess * scale
        norm = float(np.sqrt(slope @ shape @ slope))
        if norm <= 1e-300:
            break
        step = shape @ slope / norm
        center = center + step / (count + 1)
        shape = count**2 / (count**2 - 1.0) * (shape - 2.0 / (count + 1) * np.outer(step, step))
    if best is None:
        for factor in 2.0 ** np.arange(1, 60):
            chosen = limited.cheapest(np.maximum(center, 1e-3) * scale * factor)
            if (limited.excess(chosen) <= 0).all():
                return chosen, np.maximum(center, 1e-3) * scale * factor
        return None
    return best[1], np.maximum(best[2], 0.0)


def _changes(limited: _Limited, chosen: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return [S, J] and [M, S, J]: by how much every change of one site raises the loss and the uses."""
    rows = np.arange(len(chosen))
    return limited.losses - limited.losses[rows, chosen][:, None], limited.use - limited.use[:, rows, chosen][:, :, None]


def _improved(limited: _Limited, chosen: IntArray, prices: FloatArray) -> IntArray:
    """Return the choices after the best set of changes of the core's sites, until none is better."""
    for _ in range(ROUNDS):
        better = _core(limited, chosen, prices)
        if better is None:
            return chosen
        chosen = better
    return chosen


def _core(limited: _Limited, chosen: IntArray, prices: FloatArray) -> IntArray | None:
    """Return the best choices that differ from `chosen` in the sites whose change raises the priced loss least; None if it is best.

    One change per site; the sets of changes of two halves of these sites are joined by meet in the middle (Horowitz and Sahni, J. of the
    ACM 21, 1974), after Balas and Zemel's core (Operations Research 28, 1980).
    """
    loss, use = _changes(limited, chosen)
    priced = loss + np.tensordot(prices, use, 1)
    priced[np.arange(len(chosen)), chosen] = np.inf
    change = priced.argmin(axis=1)
    least = priced[np.arange(len(chosen)), change]
    half = CORE if len(prices) == 1 else SMALL_CORE
    sites = np.argsort(least, kind="stable")[: min(2 * half, int(np.isfinite(least).sum()))]
    halves = sites[::2], sites[1::2]
    room = -limited.excess(chosen)
    one, other = (_subsets(np.vstack([loss[part, change[part]], use[:, part, change[part]]])) for part in halves)
    first, second, total = _join(one, other, room) if len(prices) == 1 else _match(one, other, room)
    if total >= -1e-12 * abs(limited.loss(chosen)):
        return None
    better = chosen.copy()
    for part, taken in zip(halves, (first, second), strict=True):
        for n, s in enumerate(part):
            if taken >> n & 1:
                better[s] = change[s]
    return better


def _subsets(columns: FloatArray) -> FloatArray:
    """Return [R, 2 ** N]: the sums of the columns [R, N] of every subset, numbered by its bits."""
    sums = np.zeros((len(columns), 1))
    for column in columns.T:
        sums = np.concatenate([sums, sums + column[:, None]], axis=1)
    return sums


def _join(one: FloatArray, other: FloatArray, room: FloatArray) -> tuple[int, int, float]:
    """Return the two subsets within one limit whose loss together is least, and that loss; rows of both: loss, use."""
    order = np.argsort(other[1], kind="stable")
    losses = np.minimum.accumulate(other[0, order])
    at = np.searchsorted(other[1, order], room[0] - one[1], side="right") - 1
    total = np.where(at >= 0, one[0] + losses[at], np.inf)
    n = int(total.argmin())
    if at[n] < 0:
        return 0, 0, 0.0
    return n, int(order[: at[n] + 1][other[0, order[: at[n] + 1]].argmin()]), float(total[n])


def _match(one: FloatArray, other: FloatArray, room: FloatArray) -> tuple[int, int, float]:
    """Return the same within any number of limits; rows: loss, use of each."""
    total = one[0][:, None] + other[0]
    for used, more, left in zip(one[1:], other[1:], room, strict=True):
        total[used[:, None] + more > left] = np.inf
    n, m = np.unravel_index(int(total.argmin()), total.shape)
    return int(n), int(m), float(total[n, m])


def _pairs(limited: _Limited, chosen: IntArray, prices: FloatArray) -> tuple[IntArray, FloatArray]:
    """Return [P, 2, 2] and [P]: pairs of changes (site, choice) of two sites that keep the limits, and their rise of the loss."""
    loss, use = _changes(limited, chosen)
    priced = loss + np.tensordot(prices, use, 1)
    priced[np.arange(len(chosen)), chosen] = np.inf
    count = min(EXCHANGES, int(np.isfinite(priced).sum()))
    near = np.argpartition(priced.ravel(), max(count - 1, 0))[:count]
    sites, choices = np.unravel_index(near, priced.shape)
    left, right = np.triu_indices(count, 1)
    both = use[:, sites[left], choices[left]] + use[:, sites[right], choices[right]]
    fits = (sites[left] != sites[right]) & (both <= -limited.excess(chosen)[:, None]).all(axis=0)
    left, right = left[fits], right[fits]
    moves = np.stack([sites, choices], axis=1)
    return np.stack([moves[left], moves[right]], axis=1), loss[sites[left], choices[left]] + loss[sites[right], choices[right]]


def _exchanged(limited: _Limited, chosen: IntArray, prices: FloatArray) -> Iterator[IntArray]:
    """Yield the choices that differ from `chosen` by a change of one or two sites within the limits, the least loss first."""
    loss, use = _changes(limited, chosen)
    fits = (use <= -limited.excess(chosen)[:, None, None]).all(axis=0) & np.isfinite(loss)
    fits[np.arange(len(chosen)), chosen] = False
    singles = np.argwhere(fits)
    pairs, totals = _pairs(limited, chosen, prices)
    rises = np.concatenate([loss[fits], totals])
    for n in np.argsort(rises, kind="stable"):
        point = chosen.copy()
        for s, j in singles[n : n + 1] if n < len(singles) else pairs[n - len(singles)]:
            point[s] = j
        yield point
