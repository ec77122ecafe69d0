"""The least sum of losses under any number of limits, with the proof: HiGHS on what bounds leave, then an enumeration of what beats it."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult
from scipy.sparse import csr_array

from search.problem.problem import FloatArray, Problem, Values
from search.searchers.solvers.core import Core, chosen_of, fix, make_core, one_hot, point_of
from search.searchers.solvers.enumeration import best_below
from search.searchers.solvers.highs import ABSOLUTE_GAP, integer_program

PROVEN = 1e-9
"""Gap, as a share of the answer's loss above the least of every site's choices that are left, up to which an answer counts as proven."""
ROUNDS = 60
"""Calls of HiGHS for one answer, at most."""
RETRIES = 20
"""Points over a limit, by HiGHS's own tolerance, before the limits are tightened to get one that is not."""
LARGEST = 1e4
"""Largest coefficient of objective and limits that HiGHS sees: its absolute tolerances are then 1e-10 of the range that is left."""
TIGHTER = 4e-6
"""By how much the limits are tightened then."""
INFEASIBLE = 2


@dataclass(frozen=True, slots=True)
class Solution:
    """An answer and what is known of it.

    Attributes:
        values: the point.
        loss: its sum of losses.
        bound: no point that keeps the limits has less.
        gap: loss - bound, computed where it is small beside neither.
        proven: whether the gap is at most 1e-9 of the differences that are left.
    """

    values: Values
    loss: float
    bound: float
    gap: float
    proven: bool


def solution(losses: Sequence[FloatArray], values: Values, gap: float, proven: bool) -> Solution:
    """Return the solution of a point whose loss is within `gap` of the least."""
    loss = math.fsum(float(table[value]) for table, value in zip(losses, values, strict=True))
    return Solution(values, loss, loss - gap, gap, proven)


def solve_exactly(problem: Problem, losses: Sequence[FloatArray], cuts: Sequence[Values] = (), nodes: int = 100_000) -> Solution | None:
    """Return the point with the least loss that keeps the limits and is none of `cuts`; None when there is none.

    Args:
        problem: cardinalities, sites, costs and limits.
        losses: per dimension [K_d]; the loss of a point is their sum.
        cuts: points that must not be returned.
        nodes: nodes of one call of HiGHS, after which its best point so far is taken and the gap says so.
    """
    core = make_core(problem, losses, dominated=bool(cuts))
    if core is None:
        return None
    search = _Search(problem, core, [chosen_of(problem, cut) for cut in cuts], nodes)
    search.run()
    if search.best is None:
        return None
    return solution(losses, point_of(problem, search.best), search.gap, search.proven)


class _Search:
    """The state of one solve: the choices that are left, the best point, and the gap between its loss and what is known of the least."""

    def __init__(self, problem: Problem, core: Core, cuts: list[tuple[int, ...]], nodes: int) -> None:
        self.core = core
        self.best: tuple[int, ...] | None = None
        self.gap = math.inf
        self._problem, self._cuts, self._nodes = problem, cuts, nodes
        self._banned = list(cuts)
        self._over = 0
        self._lower = -math.inf

    @property
    def upper(self) -> float:
        """Return the loss of the best point in the core's terms."""
        return math.inf if self.best is None else self.core.loss(self.best)

    @property
    def proven(self) -> bool:
        """Tell whether the gap is small enough."""
        return self.best is not None and self.gap <= PROVEN * self.upper

    def run(self) -> None:
        """Solve, remove what the answer excludes, look at all that is left below it; where that is too much, solve again at its scale."""
        before = -1
        for _ in range(ROUNDS):
            tightened = self._over >= RETRIES
            more = self._step(TIGHTER if tightened else 0.0)
            if self.best is not None:
                self._reduce()
                if self.core.size != before and self._enumerate():
                    return
                before = self.core.size
            if not more or tightened or self.proven:
                break
        if self.best is None and self.gap > 0 and not self._enumerate():
            warnings.warn("no policy found that keeps the limits; there may be one: the integer program ended early.", stacklevel=4)

    def _step(self, tighter: float) -> bool:
        """Let HiGHS solve the core without the points it gave before; return whether another call can tell more."""
        scale = LARGEST / self.core.largest if self.core.largest else 1.0
        result = _highs(self.core, scale, self._banned, self._nodes, tighter)
        if result.x is None:
            if result.status == INFEASIBLE and not tighter:
                self.gap = 0.0
            return False
        point = _chosen(self.core, result.x)
        self._banned.append(point)
        lower = self._lower if tighter else (min(float(result.mip_dual_bound), float(result.fun)) - ABSOLUTE_GAP) / scale
        if not self._problem.feasible(point_of(self._problem, point)):
            self._over += 1
        elif self.core.loss(point) < self.upper:
            self._accept(point)
        if self.best is None:
            self._lower = lower
        else:
            self.gap = min(self.gap, self.upper - min(self.upper, max(0.0, lower)))
        return bool(result.status == 0)

    def _accept(self, point: tuple[int, ...]) -> None:
        """Make a feasible point the best one: what was known of the least stays known."""
        if self.best is not None:
            self.gap = max(0.0, self.gap - (self.upper - self.core.loss(point)))
        self.best = point

    def _reduce(self) -> None:
        """Remove the choices that no point as good as the best one has, at the prices of what is left, until nothing changes."""
        size = -1
        while size != self.core.size:
            size, zero = self.core.size, np.zeros(len(self.core.budget))
            left = fix(self.core, self.best, [zero, self.core.prices()])
            if left is None or self.best is None or left.positions(self.best) is None:  # rounding; the core as it is stays right
                return
            self.core = left

    def _enumerate(self) -> bool:
        """Look at all points that are better than the best one by more than a tenth of PROVEN; return False when they are too many."""
        upper = sum(float(table.max()) for table in self.core.losses) if self.best is None else self.upper
        slack = 0.0 if self.best is None else 0.1 * PROVEN * upper
        price = self.core.prices()
        spread = [price * factor for factor in (0.0, 0.8, 1.25, 1.0)]

        def accepted(chosen: tuple[int, ...]) -> bool:
            return chosen not in banned and self._problem.feasible(point_of(self._problem, chosen))

        banned = set(self._cuts)
        better, complete = best_below(self.core, upper - slack, spread, accepted)
        if better is not None:
            self.best = better
        if complete:
            self.gap = 0.0 if better is not None else min(self.gap, slack)
        return complete


def _highs(core: Core, scale: float, banned: Sequence[tuple[int, ...]], nodes: int, tighter: float) -> OptimizeResult:
    """Return HiGHS's result for the core: losses times `scale`, limits in units of LARGEST, without the points `banned`."""
    constraints = [LinearConstraint(one_hot(core), 1.0, 1.0)]
    worst = sum((table.max(axis=1) for table in core.costs), np.zeros(len(core.budget)))
    binding = np.flatnonzero(worst > core.budget)  # the others no point breaks
    if len(binding):
        units = LARGEST / np.concatenate(core.costs, axis=1)[binding].max(axis=1)
        rows = np.concatenate(core.costs, axis=1)[binding] * units[:, None]
        constraints.append(LinearConstraint(csr_array(rows), -np.inf, core.budget[binding] * units - tighter))
    points = [where for where in map(core.positions, banned) if where is not None]
    if points:
        columns = np.array(points) + np.concatenate([[0], np.cumsum([len(table) for table in core.losses])[:-1]])
        cuts = csr_array((np.ones(columns.size), columns.ravel(), np.arange(len(points) + 1) * columns.shape[1]), (len(points), core.size))
        constraints.append(LinearConstraint(cuts, -np.inf, columns.shape[1] - 1.0))
    objective = np.concatenate(core.losses) * scale
    return integer_program(objective, np.ones(core.size, dtype=np.int64), Bounds(0, 1), constraints, nodes)


def _chosen(core: Core, x: FloatArray) -> tuple[int, ...]:
    """Return the joint choices that a solution of HiGHS sets to one."""
    parts = np.split(x, np.cumsum([len(table) for table in core.losses])[:-1])
    return tuple(int(left[int(part.argmax())]) for left, part in zip(core.choices, parts, strict=True))
