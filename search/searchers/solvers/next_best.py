"""The best new point by an additive loss: by enumeration in a small space, by the integer program in a large one."""

from collections.abc import Sequence

import numpy as np

from search.problem.problem import FloatArray, IntArray, Problem, Values
from search.problem.repair import infeasible
from search.searchers.base.history import ProposalHistory
from search.searchers.solvers.milp import Pairs, solve

CUTS = 100
"""Most recent points that the integer program cuts off; when it returns an older one, there is no answer."""


def next_best(history: ProposalHistory, target: Problem, losses: Sequence[FloatArray], pairs: Pairs | None = None) -> Values | None:
    """Return the new point with the least sum of losses (and pair terms) under the limits of `target`; None when there is none."""
    unseen = history.unseen()
    if unseen is None:
        point = solve(target, losses, history.points[-CUTS:], pairs)
        return None if point is None or history.seen(point) else point
    left = np.delete(unseen, infeasible(target, unseen), axis=0)
    if not len(left):
        return None
    return tuple(map(int, left[int(total_loss(left, losses, pairs or {}).argmin())]))


def total_loss(points: IntArray, losses: Sequence[FloatArray], pairs: Pairs) -> FloatArray:
    """Return [N]: the sum of one entry per dimension and one per pair of dimensions, for points [N, D]."""
    total = np.zeros(len(points))
    for d, table in enumerate(losses):
        total += table[points[:, d]]
    for (d, e), table in pairs.items():
        total += table[points[:, d], points[:, e]]
    return total
