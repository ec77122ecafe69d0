"""Bit allocation as an integer program: one-hot over the joint choices of each site, any number of limits at once, gap 0.

The formulation is HAWQ-V3's (arXiv 2011.10680, eq. 10) with pairwise terms added as in CLADO (arXiv 2307.05657, eq. 8), linearised.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array

from search.problem.pareto import non_dominated
from search.problem.problem import FloatArray, Problem, Values
from search.problem.repair import LinearLimits, linearize_limits

Pairs = Mapping[tuple[int, int], FloatArray]
RETRIES = 50
MOST_COMPARED = 1000
"""Joint choices per site up to which dominated ones are taken out before solving."""


def solve(
    problem: Problem, losses: Sequence[FloatArray], cuts: Sequence[Values] = (), pairs: Pairs | None = None, nodes: int = 100_000
) -> Values | None:
    """Return the point with the least loss that keeps the limits of `problem` and is none of `cuts`; None when there is none.

    Args:
        problem: cardinalities, sites, costs and limits.
        losses: per dimension [K_d]; the loss of a point is their sum.
        cuts: points that must not be returned (no-good cuts).
        pairs: (d, e) -> [K_d, K_e] added to the loss; each pair costs K_d K_e more variables.
        nodes: after this many the best point found so far is returned (a bound in seconds would not be repeatable).
    """
    program = Program(problem, losses, dict(pairs or {}))
    banned = list(cuts)
    for _ in range(RETRIES):
        point = program.solve(banned, nodes)
        if point is None or problem.feasible(point):
            return point
        banned.append(point)  # within the solver's tolerance of a limit, but over it
    return None


class Program:
    """The integer program of one problem and one loss, ready to be solved again with further cuts."""

    def __init__(self, problem: Problem, losses: Sequence[FloatArray], pairs: Pairs) -> None:
        self._problem = problem
        self._shapes = [tuple(problem.cardinalities[d] for d in site) for site in problem.sites]
        joint = joint_losses(problem, losses)
        self._pairs = _by_site(problem, pairs, joint)
        self._start = np.concatenate([[0], np.cumsum([len(table) for table in joint])]).astype(np.int64)
        extra = sum(table.size for table in self._pairs.values())
        cost = np.concatenate([*joint, *(table.ravel() for table in self._pairs.values())])
        spread = max((float(np.ptp(table)) for table in joint), default=0.0)
        self._objective = cost * (1e3 / spread if spread > 0 else 1.0)
        self._width = int(self._start[-1]) + extra
        self._ones = self._one_hot()
        self._limits = self._limit_rows(linearize_limits(problem))
        self._links = self._link_rows()
        self._useful = np.ones(self._width)
        if not self._pairs:
            costs = self._limits[0].toarray() if self._limits is not None else np.zeros((0, self._width))
            points = np.concatenate([self._objective[None], costs]).T
            spans = zip(self._start[:-1], self._start[1:], strict=True)
            self._useful[:] = np.concatenate([_undominated(points[first:last]) for first, last in spans])

    def solve(self, cuts: Sequence[Values], nodes: int) -> Values | None:
        """Return the best point that is none of `cuts` and keeps the limits within the solver's tolerance."""
        constraints = [LinearConstraint(self._ones, 1.0, 1.0)]
        if self._limits is not None:
            constraints.append(LinearConstraint(self._limits[0], -np.inf, self._limits[1]))
        if self._links is not None:
            constraints.append(LinearConstraint(self._links, 0.0, 0.0))
        if cuts:
            rows = self._matrix([(n, column, 1.0) for n, point in enumerate(cuts) for column in self._columns(point)], len(cuts))
            constraints.append(LinearConstraint(rows, -np.inf, len(self._shapes) - 1.0))
        upper = np.ones(self._width) if cuts else self._useful  # a cut may make a dominated choice the answer
        binary = np.zeros(self._width, dtype=np.int64)
        binary[: self._start[-1]] = 1
        solution = milp(
            self._objective, integrality=binary, bounds=Bounds(0, upper), constraints=constraints,
            options={"mip_rel_gap": 0.0, "node_limit": nodes},
        )  # fmt: skip
        return None if solution.x is None else self._point(solution.x)

    def _point(self, x: FloatArray) -> Values:
        values = [0] * len(self._problem.cardinalities)
        for s, (site, shape) in enumerate(zip(self._problem.sites, self._shapes, strict=True)):
            chosen = np.unravel_index(int(x[self._start[s] : self._start[s + 1]].argmax()), shape)
            for d, value in zip(site, chosen, strict=True):
                values[d] = int(value)
        return tuple(values)

    def _columns(self, point: Values) -> list[int]:
        """Return the variable of each site that `point` sets to one."""
        sites = zip(self._problem.sites, self._shapes, strict=True)
        inside = [int(np.ravel_multi_index(tuple(point[d] for d in site), shape)) for site, shape in sites]
        return [int(first) + offset for first, offset in zip(self._start[:-1], inside, strict=True)]

    def _one_hot(self) -> csr_array:
        return self._matrix([(s, c, 1.0) for s in range(len(self._shapes)) for c in range(self._start[s], self._start[s + 1])])

    def _limit_rows(self, limits: LinearLimits) -> tuple[csr_array, FloatArray] | None:
        if not len(limits.budget):
            return None
        dense = np.array([np.concatenate([table.ravel() for table in tables]) for tables in limits.tables])
        dense = np.concatenate([dense, np.zeros((len(dense), self._width - dense.shape[1]))], axis=1)
        return csr_array(dense), limits.budget + 1e-12

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


def _undominated(points: FloatArray) -> FloatArray:
    """Return [J]: 0 for the choices [J, 1 + M] of a site that another equals or beats in loss and every limited cost, else 1."""
    return non_dominated(points).astype(np.float64) if len(points) <= MOST_COMPARED else np.ones(len(points))


def joint_losses(problem: Problem, losses: Sequence[FloatArray]) -> list[FloatArray]:
    """Return per site the summed losses of its joint choices, raveled: [prod K_d]."""
    return [_joint([losses[d] for d in site]) for site in problem.sites]


def _joint(tables: Sequence[FloatArray]) -> FloatArray:
    """Return the sums of one entry per table, raveled: [prod K_d]."""
    total = np.zeros(())
    for table in tables:
        total = total[..., None] + table
    return total.ravel()


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
