"""Bit allocation as an integer program with pairwise terms: one-hot over the joint choices of each site, any number of limits at once.

The formulation is HAWQ-V3's (arXiv 2011.10680, eq. 10) with pairwise terms added as in CLADO (arXiv 2307.05657, eq. 8), linearised.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint
from scipy.sparse import coo_array, csr_array

from search.problem.pareto import BoolArray
from search.problem.problem import FloatArray, Problem, Values
from search.problem.repair import LinearLimits, linearize_limits
from search.searchers.solvers.core import chosen_of, joint_losses, point_of
from search.searchers.solvers.exact import PROVEN, Solution, solution, solve_exactly
from search.searchers.solvers.highs import ABSOLUTE_GAP, integer_program

Pairs = Mapping[tuple[int, int], FloatArray]
RETRIES = 50
ROUNDS = 8
"""Solves of one program, each at the scale of the choices that the answer before left."""
RANGE = 1e4
"""Range of the objective that HiGHS sees, whose absolute gap is 1e-6."""


def solve(
    problem: Problem, losses: Sequence[FloatArray], cuts: Sequence[Values] = (), pairs: Pairs | None = None, nodes: int = 100_000
) -> Values | None:
    """Return the point with the least loss that keeps the limits of `problem` and is none of `cuts`; None when there is none.

    Args:
        problem: cardinalities, sites, costs and limits.
        losses: per dimension [K_d]; the loss of a point is their sum.
        cuts: points that must not be returned (no-good cuts).
        pairs: (d, e) -> [K_d, K_e] added to the loss; each pair costs K_d K_e more variables, as one of sites in a limit does.
        nodes: after this many the best point found so far is returned (a bound in seconds would not be repeatable).
    """
    answer = (
        solve_in_pairs(problem, losses, cuts, pairs, nodes)
        if pairs or problem.limits_pairs
        else solve_exactly(problem, losses, cuts, nodes)
    )
    return None if answer is None else answer.values


def solve_in_pairs(
    problem: Problem, losses: Sequence[FloatArray], cuts: Sequence[Values] = (), pairs: Pairs | None = None, nodes: int = 100_000
) -> Solution | None:
    """Return the point of `solve`, whose losses or limited costs have terms of pairs; its gap is that of the integer program."""
    program = Program(problem, losses, dict(pairs or {}))
    banned = list(cuts)
    for _ in range(RETRIES):
        point = program.solve(banned, nodes)
        if point is None:
            return None
        if problem.feasible(point):
            return solution(losses, point, program.gap, proven=program.gap <= PROVEN * program.spread)
        banned.append(point)  # within the solver's tolerance of a limit, but over it
    return None


class Program:
    """The integer program of one problem and one loss, ready to be solved again with further cuts."""

    def __init__(self, problem: Problem, losses: Sequence[FloatArray], pairs: Pairs) -> None:
        self._problem = problem
        joint = joint_losses(problem, losses)
        self._pairs = _by_site(problem, pairs, joint)
        self._joint = joint
        limits = linearize_limits(problem)
        self._costs = _cost_pairs(limits)
        for s, t in self._costs:
            self._pairs.setdefault((s, t), np.zeros((len(joint[s]), len(joint[t]))))
        self.gap = self.spread = np.inf
        self._start = np.concatenate([[0], np.cumsum([len(table) for table in joint])]).astype(np.int64)
        self._width = int(self._start[-1]) + sum(table.size for table in self._pairs.values())
        self._ones = self._one_hot()
        self._limits = self._limit_rows(limits)
        self._links = self._link_rows()

    def solve(self, cuts: Sequence[Values], nodes: int) -> Values | None:
        """Return the best point that is none of `cuts` and keeps the limits within the solver's tolerance.

        Choices and pairs that an answer excludes are removed and the program is solved again at the scale of the rest: an outlier would put
        the differences that matter below HiGHS's absolute gap.
        """
        left = [np.ones(table.shape, dtype=np.bool_) for table in (*self._joint, *self._pairs.values())]
        point, before = None, np.inf
        for _ in range(ROUNDS):
            objective = self._objective(left)
            spread = self.spread = float(objective.max())
            if point is not None and (spread > before / 10 or not spread):
                break
            x = self._solved(objective, RANGE / spread if spread else 1.0, left, cuts, nodes)
            if x is None:
                break
            better, before = self._point(x), spread
            if not self._problem.feasible(better):
                return better
            point = better if point is None or self._loss(better) < self._loss(point) else point
            left = self._within(left, self._loss(point))
        return point

    def _solved(
        self, objective: FloatArray, scale: float, left: Sequence[BoolArray], cuts: Sequence[Values], nodes: int
    ) -> FloatArray | None:
        """Return HiGHS's solution of the objective times `scale`, or None."""
        constraints = [LinearConstraint(self._ones, 1.0, 1.0)]
        if self._limits is not None:
            constraints.append(LinearConstraint(self._limits[0], -np.inf, self._limits[1]))
        if self._links is not None:
            constraints.append(LinearConstraint(self._links, 0.0, 0.0))
        if cuts:
            rows = self._matrix([(n, column, 1.0) for n, point in enumerate(cuts) for column in self._columns(point)], len(cuts))
            constraints.append(LinearConstraint(rows, -np.inf, len(self._joint) - 1.0))
        upper, whole = np.ones(self._width), np.zeros(self._width, dtype=np.int64)
        upper[:] = np.concatenate([kept.ravel() for kept in left])
        whole[: self._start[-1]] = 1
        result = integer_program(objective * scale, whole, Bounds(0, upper), constraints, nodes)
        x: FloatArray | None = result.x
        if x is not None:
            self.gap = (max(float(result.fun) - float(result.mip_dual_bound), 0.0) + ABSOLUTE_GAP) / scale
        return x

    def _objective(self, left: Sequence[BoolArray]) -> FloatArray:
        """Return [width]: the losses and terms above the least of those left, 0 where one is not."""
        tables = (*self._joint, *self._pairs.values())
        return np.concatenate([np.where(kept, table - table[kept].min(), 0.0).ravel() for table, kept in zip(tables, left, strict=True)])

    def _within(self, left: Sequence[BoolArray], upper: float) -> list[BoolArray]:
        """Return what is left of the choices and terms: all that a point with a loss of at most `upper` can have."""
        tables = [np.where(kept, table, np.inf) for table, kept in zip((*self._joint, *self._pairs.values()), left, strict=True)]
        least = [float(table.min()) for table in tables]
        size = sum(abs(low) for low in least) + abs(upper)
        rises = [table - low for table, low in zip(tables, least, strict=True)]
        singles, terms = rises[: len(self._joint)], rises[len(self._joint) :]
        whole = [table.copy() for table in singles]
        for (s, t), table in zip(self._pairs, terms, strict=True):
            whole[s] += table.min(axis=1)
            whole[t] += table.min(axis=0)
        joined = [table + singles[s][:, None] + singles[t] for (s, t), table in zip(self._pairs, terms, strict=True)]
        return [rise <= upper - sum(least) + 1e-12 * size for rise in (*whole, *joined)]

    def _loss(self, point: Values) -> float:
        """Return the sum of losses and terms of a point."""
        chosen = chosen_of(self._problem, point)
        single = sum(float(table[choice]) for table, choice in zip(self._joint, chosen, strict=True))
        return single + sum(float(table[chosen[s], chosen[t]]) for (s, t), table in self._pairs.items())

    def _point(self, x: FloatArray) -> Values:
        spans = zip(self._start[:-1], self._start[1:], strict=True)
        return point_of(self._problem, [int(x[first:last].argmax()) for first, last in spans])

    def _columns(self, point: Values) -> list[int]:
        """Return the variable of each site that `point` sets to one."""
        return [int(first) + choice for first, choice in zip(self._start[:-1], chosen_of(self._problem, point), strict=True)]

    def _one_hot(self) -> csr_array:
        return self._matrix([(s, c, 1.0) for s in range(len(self._joint)) for c in range(self._start[s], self._start[s + 1])])

    def _limit_rows(self, limits: LinearLimits) -> tuple[csr_array, FloatArray] | None:
        if not len(limits.budget):
            return None
        dense = np.array([np.concatenate([table.ravel() for table in tables]) for tables in limits.tables])
        none = np.zeros(len(limits.budget))
        joined = [
            np.broadcast_to(self._costs.get(key, none[:, None, None]), (len(none), *table.shape)).reshape(len(none), -1)
            for key, table in self._pairs.items()
        ]
        return csr_array(np.concatenate([dense, *joined], axis=1)), limits.budget + 1e-12

    def _link_rows(self) -> csr_array | None:
        """For each pair of sites, y[j, k] >= 0 sums over k to x_s[j] and over j to x_t[k]: then y is their product."""
        entries: list[tuple[int, int, float]] = []
        row, at = 0, int(self._start[-1])
        for (s, t), table in self._pairs.items():
            index = at + np.arange(table.size).reshape(table.shape)
            for lines, first in ((index, self._start[s]), (index.T, self._start[t])):
                for offset, line in enumerate(lines):
                    entries += [(row, int(column), 1.0) for column in line]
                    entries.append((row, int(first) + offset, -1.0))
                    row += 1
            at += table.size
        return self._matrix(entries, row) if row else None

    def _matrix(self, entries: Sequence[tuple[int, int, float]], rows: int | None = None) -> csr_array:
        at, column, value = (np.array(part) for part in zip(*entries, strict=True))
        return csr_array(coo_array((value, (at, column)), shape=(rows or int(at.max()) + 1, self._width)))


def _cost_pairs(limits: LinearLimits) -> dict[tuple[int, int], FloatArray]:
    """Return (s, t) -> [M, J_s, J_t]: what pairs of sites use of each limit."""
    tables: dict[tuple[int, int], FloatArray] = {}
    for m, pairs in enumerate(limits.pairs):
        for pair in pairs:
            table = tables.setdefault((pair.first, pair.second), np.zeros((len(limits.budget), *pair.added.shape)))
            table[m] += pair.added
    return tables


def _by_site(problem: Problem, pairs: Pairs, joint: Sequence[FloatArray]) -> dict[tuple[int, int], FloatArray]:
    """Turn pairs of dimensions into pairs of sites; a pair within one site is added to `joint` in place."""
    home = {d: (s, position) for s, site in enumerate(problem.sites) for position, d in enumerate(site)}
    by_site: dict[tuple[int, int], FloatArray] = {}
    for (d, e), table in pairs.items():
        (s, p), (t, q) = home[d], home[e]
        shape_s, shape_t = (tuple(problem.cardinalities[dimension] for dimension in problem.sites[site]) for site in (s, t))
        pick_s = np.unravel_index(np.arange(len(joint[s])), shape_s)[p]
        pick_t = np.unravel_index(np.arange(len(joint[t])), shape_t)[q]
        if s == t:
            joint[s][:] += table[pick_s, pick_t]
            continue
        spread = table[np.ix_(pick_s, pick_t)]
        key, spread = ((s, t), spread) if s < t else ((t, s), spread.T)
        by_site[key] = by_site.get(key, np.zeros_like(spread)) + spread
    return by_site
