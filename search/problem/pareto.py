"""Pareto mathematics on plain arrays: non-dominated set, hypervolume, knee, best under a limit. Everything is minimized.

References:
    [ZT99] Zitzler, Thiele: Multiobjective evolutionary algorithms, IEEE TEC 3(4), 1999: hypervolume (sec. IV), coverage C(A, B) (def. 4).
    [WHBB06] While, Hingston, Barone, Huband: A faster algorithm for calculating hypervolume, IEEE TEC 10(1), 2006: slicing (HSO).
    [DAS99] Das: On characterizing the "knee" of the Pareto curve based on normal-boundary intersection, Struct. Optim. 18, 1999.
    [FF96] Fonseca, Fleming: On the performance assessment of stochastic multiobjective optimizers, PPSN IV, 1996: attainment.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from quant_core.util.errors import InputError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def non_dominated(points: FloatArray) -> BoolArray:
    """Mark the points [N, m] that no other point dominates, as [N]. Of equal points the first is kept; a point with NaN or
    infinity is never kept.

    `a` dominates `b` when it is nowhere larger and somewhere smaller.
    """
    keep = np.zeros(len(points), dtype=bool)
    finite = np.flatnonzero(np.isfinite(points).all(axis=1))
    order = finite[np.lexsort((finite, *points[finite].T[::-1]))]
    rest = points[order]
    while len(order):  # nothing dominates the lexicographically first of the rest: keep it, drop what it dominates
        keep[order[0]] = True
        free = ~(rest >= rest[0]).all(axis=1)
        order, rest = order[free], rest[free]
    return keep


def hypervolume(points: FloatArray, reference: Sequence[float]) -> float:
    """Return the exact volume that points [N, m] dominate within the box below `reference` [m] [ZT99].

    Points that are not finite, or not below the reference in every objective, add nothing. 1-D and 2-D are closed forms; higher
    dimensions are cut into slabs along the last objective [WHBB06]: O(N^(m-1) log N).

    Raises:
        InputError: the reference has another length than the points.
    """
    corner = np.asarray(reference, dtype=np.float64)
    if points.ndim != 2 or corner.shape != points.shape[1:]:
        raise InputError(f"points of shape {points.shape} and a reference of {len(corner)} given; write [N, m] and [m].")
    return _volume(points[((points < corner) & np.isfinite(points)).all(axis=1)], corner)


def _volume(points: FloatArray, corner: FloatArray) -> float:
    """Return the volume that points [N, m], all below `corner`, dominate."""
    if len(points) == 0:
        return 0.0
    if len(corner) == 1:
        return float(corner[0] - points.min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    depth = np.diff(points[:, -1], append=corner[-1])
    if len(corner) == 2:
        return float(depth @ (corner[0] - np.minimum.accumulate(points[:, 0])))
    points = points[non_dominated(points)]
    depth = np.diff(points[:, -1], append=corner[-1])
    return math.fsum(float(d) * _volume(points[: i + 1, :-1], corner[:-1]) for i, d in enumerate(depth) if d > 0)


def relative_hypervolume(points: FloatArray, reference: Sequence[float]) -> float:
    """Return the hypervolume as a share of the box from 0 to `reference`: in [0, 1] for objectives that cannot be negative."""
    box = math.prod(reference)
    return hypervolume(points, reference) / box if box > 0 else 0.0


def knee(points: FloatArray) -> int:
    """Return the row of the front [N, m] farthest from the plane through its extremes, towards the ideal point [DAS99].

    Each objective is scaled to [0, 1] over the front (ideal to nadir), which puts the extremes of a 2-D front at (0, 1) and (1, 0); the
    distance to the plane sum(x) = 1 towards the ideal point is then largest where sum(x) is smallest. Ties: the first.

    Points with NaN or infinity are passed over.

    Raises:
        InputError: the front is empty.
    """
    finite = np.flatnonzero(np.isfinite(points).all(axis=1))
    if len(finite) == 0:
        raise InputError("an empty front has no knee; at least one finished trial within the limits is needed.")
    points = points[finite]
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    total = ((points - low) / span).sum(axis=1)
    return int(finite[np.flatnonzero(total <= total.min() + 1e-12)[0]])


def best_under(error: FloatArray, cost: FloatArray, limit: float) -> int:
    """Return the index of the smallest finite error [N] among costs [N] within `limit`; of equals the cheaper, then the first.

    Raises:
        InputError: no cost is within the limit; says the smallest.
    """
    allowed = np.flatnonzero((cost <= limit) & np.isfinite(error))
    if len(allowed) == 0:
        least = f"the smallest is {cost.min():.6g}" if len(cost) else "there is none"
        raise InputError(f"limit {limit:.6g} given, but no policy keeps it: {least}; give a larger one.")
    return int(allowed[np.lexsort((cost[allowed], error[allowed]))[0]])


def attainment(error: FloatArray, cost: FloatArray, budgets: FloatArray) -> FloatArray:
    """Return, per budget [B], the smallest error [N] at a cost [N] within it (the attainment surface [FF96]); inf where none is."""
    error = np.where(np.isfinite(error), error, np.inf)
    order = np.argsort(cost, kind="stable")
    best = np.concatenate(([np.inf], np.minimum.accumulate(error[order])))
    return best[np.searchsorted(cost[order], budgets, side="right")]


def coverage(a: FloatArray, b: FloatArray) -> float:
    """Return C(A, B) [ZT99]: the share of points of B [M, m] that some point of A [N, m] equals or dominates; 0.0 for an empty B."""
    if len(b) == 0:
        return 0.0
    finite = a[np.isfinite(a).all(axis=1)]
    return float((finite[:, None, :] <= b[None, :, :]).all(axis=2).any(axis=0).mean())


@dataclass
class Archive:
    """The front so far of a running sweep, kept up to date one trial at a time; its state is that of `non_dominated` on all points.

    Attributes:
        reference: reference point of the hypervolume, [m].
        numbers: trial numbers on the front, ascending. Of equal points the lowest number stays.
    """

    reference: tuple[float, ...]
    numbers: tuple[int, ...] = ()
    _points: FloatArray = field(init=False, repr=False)
    _held: list[tuple[float, ...]] = field(default_factory=list, init=False, repr=False)
    _volume: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        self._points = np.empty((0, len(self.reference)))

    def add(self, number: int, point: Sequence[float] | FloatArray) -> bool:
        """Offer one finished trial that keeps every limit; tell whether the front changed."""
        if any(self._beats(i, number, point) for i in range(len(self.numbers))):
            return False  # as for most trials of a long sweep
        numbers = np.asarray([*self.numbers, number])
        points = np.vstack([self._points, np.asarray(point, dtype=np.float64)])
        order = np.argsort(numbers, kind="stable")
        keep = order[non_dominated(points[order])]
        front_numbers = tuple(int(n) for n in numbers[keep])
        if front_numbers == self.numbers:
            return False
        self.numbers, self._points = front_numbers, points[keep]
        self._held = [tuple(row) for row in self._points.tolist()]
        self._volume = relative_hypervolume(self._points, self.reference)
        return True

    def _beats(self, member: int, number: int, point: Sequence[float] | FloatArray) -> bool:
        """Tell whether a member is nowhere worse than a point, and better somewhere or of a lower number: a few comparisons."""
        held = self._held[member]
        return all(a <= b for a, b in zip(held, point, strict=True)) and (self.numbers[member] < number or held != tuple(point))

    @property
    def hypervolume(self) -> float:
        """Return the share of the box from 0 to the reference that the front dominates."""
        return self._volume

    @property
    def knee(self) -> int:
        """Return the trial number of the knee, or -1 while the front is empty."""
        return self.numbers[knee(self._points)] if self.numbers else -1
