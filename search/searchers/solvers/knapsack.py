"""The solutions of an allocation problem with at most one limit in the order of loss: dynamic programming, then best-first search.

The multiple-choice knapsack problem after Pisinger (European J. of Operational Research 83, 1995): the Lagrangian bound discards every
choice and every partial solution that is not part of a solution within `slack` of it, and few are left. The first solution needs
only the partial solutions of two halves, joined by meet in the middle (Horowitz and Sahni, J. of the ACM 21, 1974).
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from search.problem.pareto import BoolArray
from search.problem.problem import FloatArray
from search.problem.repair import TOLERANCE

MOST_STATES = 1_000_000
"""Partial solutions per site above which the enumeration ends without an answer."""
ROUNDING = 1e-13
"""Share of the terms of a sum by which rounding may have changed it."""
TIED = 1e-12
"""Share of a loss by which another may differ to count as the same."""
Front = tuple[FloatArray, FloatArray]


@dataclass(frozen=True, eq=False)
class Knapsack:
    """One choice per site: the sum of `losses` is to be small, the sum of `costs` at most `budget`.

    Attributes:
        losses: [S, J] >= 0, inf where a site has no such choice. Sums are then exact to rounding relative to themselves.
        costs: [S, J] >= 0.
        price: the multiplier of the cost in the Lagrangian; any value gives a valid bound, the best one a tight bound.
    """

    losses: FloatArray
    costs: FloatArray
    budget: float
    price: float

    @property
    def priced(self) -> FloatArray:
        """Return [S, J]: the loss plus the cost at its price."""
        return self.losses + self.price * self.costs

    @property
    def reduced(self) -> FloatArray:
        """Return [S, J]: by how much a choice raises the Lagrangian bound."""
        whole = self.priced
        reduced: FloatArray = whole - whole.min(axis=1, keepdims=True)
        return reduced

    @property
    def bound(self) -> float:
        """Return the Lagrangian bound: no solution has less loss."""
        return float(self.priced.min(axis=1).sum()) - self.price * self.budget

    @property
    def cheapest(self) -> FloatArray:
        """Return [S]: the least cost of a site."""
        cheapest: FloatArray = np.where(np.isfinite(self.losses), self.costs, np.inf).min(axis=1)
        return cheapest

    def rounded(self, slack: float) -> float:
        """Return `slack` with the rounding of the bound and of a sum of floats added."""
        return slack * (1 + 1e-9) + ROUNDING * (float(self.priced.min(axis=1).sum()) + self.price * abs(self.budget))

    def within(self, slack: float) -> BoolArray:
        """Return [S, J]: the choices that raise the bound by at most `slack`, or by rounding more."""
        priced = self.priced
        within: BoolArray = np.isfinite(priced) & (self.reduced <= self.rounded(slack) + ROUNDING * priced)
        return within

    def first_slack(self) -> float:
        """Return the first slack to try: it leaves a second choice in about every fourth site."""
        steps = self._steps()
        return float(np.sort(steps)[min(len(self.losses) // 4, len(steps) - 1)])

    def most_slack(self) -> float:
        """Return a slack that no solution exceeds."""
        reduced = np.where(np.isfinite(self.losses), self.reduced, 0.0)
        return float(reduced.max(axis=1).sum()) + self.price * abs(self.budget) + self.price * float(np.abs(self.costs).max(axis=1).sum())

    def step(self) -> float:
        """Return the least positive entry of `reduced`."""
        return float(self._steps().min())

    def _steps(self) -> FloatArray:
        """Return the positive entries of `reduced`, rounding left out; [1] when there is none."""
        reduced = self.reduced[np.isfinite(self.losses)]
        steps = reduced[reduced > 1e-12 * max(float(reduced.max()), 1e-300)]
        return steps if len(steps) else np.ones(1)


def knapsack(losses: FloatArray, costs: FloatArray, budget: float) -> Knapsack:
    """Return the problem with the least price at which the Lagrangian's own choices keep the budget."""
    rows = np.arange(len(losses))

    def kept(price: float) -> bool:
        return float(costs[rows, (losses + price * costs).argmin(axis=1)].sum()) <= budget + TOLERANCE

    if kept(0.0):
        return Knapsack(losses, costs, budget, 0.0)
    legal = np.isfinite(losses)
    low, high = 0.0, max(float(np.ptp(losses[legal])), 1e-300) / max(float(np.ptp(costs[legal])), 1e-300)
    for _ in range(100):
        if kept(high):
            break
        low, high = high, 4 * high
    for _ in range(200):  # an outlier among the losses makes the first interval wide
        if high - low <= 1e-14 * high:
            break
        middle = (low + high) / 2
        low, high = (low, middle) if kept(middle) else (middle, high)
    return Knapsack(losses, costs, budget, high)


def fronts(problem: Knapsack, slack: float) -> list[Front] | None:
    """Return for each s the non-dominated (cost, loss) of the sites s, s + 1, ..., cost rising; None when there are too many.

    Partial solutions that are left out belong to no solution whose loss is within `slack` of the Lagrangian bound.
    """
    bound = np.concatenate([np.cumsum(problem.priced.min(axis=1)[::-1])[::-1], [0.0]])
    least = np.concatenate([[0.0], np.cumsum(problem.cheapest)])
    limit = problem.rounded(slack)
    kept = [np.flatnonzero(within) for within in problem.within(slack)]
    cost, loss = np.zeros(1), np.zeros(1)
    suffixes = [(cost, loss)]
    for s in reversed(range(len(kept))):
        if len(cost) * len(kept[s]) > MOST_STATES:
            return None
        if len(kept[s]) == 1:  # it changes neither the order nor what is within the bound
            cost, loss = cost + problem.costs[s, kept[s][0]], loss + problem.losses[s, kept[s][0]]
        else:
            cost, loss = (
                np.add.outer(table[s, kept[s]], before).ravel() for table, before in ((problem.costs, cost), (problem.losses, loss))
            )
            within = (cost + least[s] <= problem.budget + TOLERANCE) & ((loss + problem.price * cost) * (1 - ROUNDING) <= bound[s] + limit)
            cost, loss = _undominated(cost[within], loss[within])
        suffixes.append((cost, loss))
    return suffixes[::-1]


def _undominated(cost: FloatArray, loss: FloatArray) -> Front:
    """Return the partial solutions that no cheaper one equals or dominates, cost rising; of one cost there may be several, loss falling."""
    order = cost.argsort(kind="stable")  # a few sorted runs, one per choice: merged rather than sorted
    cost, loss = cost[order], loss[order]
    better = np.ones(len(loss), dtype=np.bool_)
    better[1:] = loss[1:] < np.minimum.accumulate(loss)[:-1]
    return cost[better], loss[better]


def first(problem: Knapsack) -> tuple[tuple[int, ...] | None, float]:
    """Return the choices of a solution with the least loss, and by how much that exceeds the bound.

    (None, 0) where there are too many partial solutions. Any two partial solutions that fit make a solution, and its excess bounds
    the slack that the search for a better one needs.
    """
    slack, most = 4 * problem.first_slack(), problem.most_slack()  # halves are small, so wider steps than for the whole
    while True:
        parts = _halves(problem, slack)
        ahead = [front for front in (fronts(part, slack) for part in parts) if front is not None]
        if len(ahead) < 2:
            return None, 0.0
        spent, excess = _joined(problem, ahead[0][0], ahead[1][0])
        if excess <= slack or slack > most:
            break
        slack = min(4 * slack, excess)
    if not np.isfinite(excess):
        return None, 0.0
    ends = [replace(part, budget=cost) for part, cost in zip(parts, spent, strict=True)]
    chosen = [next(best_first(part, front, slack)) for part, front in zip(ends, ahead, strict=True)]
    return (*chosen[0], *chosen[1]), max(excess, 0.0)


def _joined(problem: Knapsack, one: Front, other: Front) -> tuple[tuple[float, float], float]:
    """Return the costs of the two parts of the best solution, and by how much its loss exceeds the bound; inf where there is none."""
    at = np.searchsorted(other[0], problem.budget + TOLERANCE - one[0], side="right") - 1  # -1: nothing is cheap enough
    total = one[1] + np.append(other[1], np.inf)[at]
    if not len(total):
        return (0.0, 0.0), np.inf
    n = int(total.argmin())
    return (float(one[0][n]), float(np.append(other[0], np.inf)[at[n]])), float(total[n]) - problem.bound


def _halves(problem: Knapsack, slack: float) -> tuple[Knapsack, Knapsack]:
    """Return the first and the last sites as problems of their own, cut where both have about as many combinations within `slack`."""
    combinations = np.cumsum(np.log(problem.within(slack).sum(axis=1)))
    cut = int(np.searchsorted(combinations[:-1], combinations[-1] / 2, side="right"))
    least = problem.cheapest
    return (
        replace(problem, losses=problem.losses[:cut], costs=problem.costs[:cut], budget=problem.budget - float(least[cut:].sum())),
        replace(problem, losses=problem.losses[cut:], costs=problem.costs[cut:], budget=problem.budget - float(least[:cut].sum())),
    )


def best_first(problem: Knapsack, ahead: list[Front], slack: float) -> Iterator[tuple[int, ...]]:
    """Yield the choices per site of every solution within `slack` of the bound, the least loss first.

    A* with the fronts as the estimate of what the remaining sites cost: it is exact, so every step leads to a solution. Totals that
    differ by rounding only are made equal, or the search would expand all ties together before the first is complete.
    """
    allowed = problem.budget + TOLERANCE
    limit = problem.bound + problem.rounded(slack)
    kept = [np.flatnonzero(within) for within in problem.within(slack)]
    rest = [np.append(loss, np.inf) for _, loss in ahead]  # index -1: nothing is cheap enough
    order = count()
    first = float(rest[0][np.searchsorted(ahead[0][0], allowed, side="right") - 1])
    heap: list[tuple[float, int, int, float, float, tuple[int, ...]]] = [(first, 0, next(order), 0.0, 0.0, ())]
    while heap:
        least, _, _, cost, loss, chosen = heapq.heappop(heap)
        s = len(chosen)
        if s == len(kept):
            yield chosen
            continue
        costs, losses = cost + problem.costs[s, kept[s]], loss + problem.losses[s, kept[s]]
        total = losses + rest[s + 1][np.searchsorted(ahead[s + 1][0], allowed - costs, side="right") - 1]
        for n in np.flatnonzero(total <= limit):
            key = least if abs(total[n] - least) <= TIED * least else float(total[n])
            heapq.heappush(heap, (key, -s, next(order), float(costs[n]), float(losses[n]), (*chosen, int(kept[s][n]))))
