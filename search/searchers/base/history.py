"""The history of a searcher: the points it proposed and was told, and the nearest new point. Shared by all searchers."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from search.problem.problem import IntArray, Problem, Trial, Values
from search.problem.repair import Repairer, infeasible
from search.searchers.base.correlations import Correlations

SMALL = 20_000
"""Spaces up to this size are enumerated, so that they are searched to the last point."""
TRIES = 200


class ProposalHistory:
    """Numbers the proposals, remembers every point and its objectives, and makes proposals new and feasible.

    The problem's baselines are evaluated whatever a searcher proposes, so they count as seen from the start: proposals are then the same
    whether a baseline has been told by the time of an ask or is still under way on another worker.

    Attributes:
        problem: the problem that is searched.
        rng: the searcher's one source of randomness.
        told: point -> objectives, of the trials that did not fail.
        correlations: of points that a model was fitted to.
    """

    def __init__(self, problem: Problem, seed: int, repair: Repairer) -> None:
        self.problem = problem
        self.rng = np.random.default_rng(seed)
        self.told: dict[Values, tuple[float, ...]] = {}
        self.correlations = Correlations()
        self._repair = repair
        self._seen: dict[Values, None] = {}
        self._rows: set[bytes] = set()
        self._count = 0
        for values in problem.baselines:
            self._see(values)

    def open(self, values: Values) -> Trial:
        """Number a proposal and remember it."""
        self._see(values)
        self._count += 1
        return Trial(self._count - 1, values)

    def note(self, trial: Trial, objectives: Sequence[float] | None) -> None:
        """Remember the objectives of a trial (None: it failed), proposed here or not."""
        values = tuple(int(v) for v in trial.values)
        self._see(values)
        if objectives is not None:
            self.told[values] = tuple(float(value) for value in objectives)

    def seen(self, values: Values) -> bool:
        """Tell whether a point was proposed or told before, or is a baseline."""
        return values in self._seen

    def unseen_rows(self, points: IntArray) -> IntArray:
        """Return the points [N, D] that were neither proposed nor told and are no baseline."""
        rows = np.ascontiguousarray(points, dtype=np.int64)
        return rows[[n for n, row in enumerate(rows) if row.tobytes() not in self._rows]]

    @property
    def points(self) -> tuple[Values, ...]:
        """Every baseline, then every point that was proposed or told, in that order."""
        return tuple(self._seen)

    def draw(self) -> Values:
        """Draw a point uniformly (it may be seen, or infeasible)."""
        return tuple(int(v) for v in self.rng.integers(self.problem.cardinalities))

    def repaired(self, values: Sequence[int]) -> Values:
        """Return `values` within the limits."""
        return self._repair(values, self.rng)

    def fresh(self, values: Sequence[int]) -> Values | None:
        """Return the repaired point if it is new, else a new one near it; None when there is none left."""
        point = self.repaired(values)
        if point not in self._seen:
            return point
        if self._all is not None:
            return self._nearest(point)
        for attempt in range(TRIES):
            near = self.repaired(self.mutated(point, 1 + attempt * len(point) // TRIES))
            if near not in self._seen:
                return near
        return None

    def mutated(self, values: Values, changes: int) -> Values:
        """Return `values` with `changes` dimensions drawn anew."""
        point = list(values)
        for d in self.rng.choice(len(point), size=min(changes, len(point)), replace=False):
            point[d] = int(self.rng.integers(self.problem.cardinalities[d]))
        return tuple(point)

    def incumbents(self, target: Problem, count: int = 1) -> list[Values]:
        """Return up to `count` told points with the least error among those that keep the limits of `target`, the best first."""
        points = list(self.told)
        if not points:
            return []
        errors = np.array([self.told[point][0] for point in points])
        errors[infeasible(target, np.array(points, dtype=np.int64))] = np.inf
        return [points[n] for n in np.argsort(errors, kind="stable")[:count] if np.isfinite(errors[n])]

    def unseen(self) -> IntArray | None:
        """Return every point [N, D] that keeps the limits and is new; None where the space is too large to enumerate."""
        return None if self._all is None else self._all[self._unseen]

    def _see(self, values: Values) -> None:
        if self._all is not None and values not in self._seen:
            self._unseen[np.ravel_multi_index(values, self.problem.cardinalities)] = False
        self._seen[values] = None
        self._rows.add(np.array(values, dtype=np.int64).tobytes())

    @cached_property
    def _all(self) -> IntArray | None:
        """Return every point [N, D], or None where the space is too large."""
        if self.problem.size > SMALL:
            return None
        return all_points(self.problem)

    @cached_property
    def _unseen(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Return [N]: True for the feasible points that were not seen."""
        assert self._all is not None
        left = np.ones(len(self._all), dtype=np.bool_)
        left[infeasible(self.problem, self._all)] = False
        return left

    def _nearest(self, point: Values) -> Values | None:
        assert self._all is not None
        left = np.flatnonzero(self._unseen)
        if not len(left):
            return None
        away = np.abs(self._all[left] - np.array(point)).sum(axis=1)
        picked = left[self.rng.choice(np.flatnonzero(away == away.min()))]
        return tuple(int(v) for v in self._all[picked])


def all_points(problem: Problem) -> IntArray:
    """Return every point [N, D] of a small space, over the limits or not."""
    if not problem.cardinalities:  # numpy has no index of zero dimensions
        return np.zeros((1, 0), dtype=np.int64)
    return np.stack(np.unravel_index(np.arange(problem.size), problem.cardinalities), axis=1).astype(np.int64)
