"""Proposals from the second-order model: what it expects to be best, or to widen the front most, its doubts counted in their favour."""

import numpy as np

from search.problem.problem import FloatArray, IntArray, Problem, Trial
from search.problem.repair import infeasible
from search.searchers.base.history import ProposalHistory
from search.searchers.base.neighbours import neighbours
from search.searchers.base.targets import cost_objectives, cost_range, random_limits, under
from search.searchers.solvers.next_best import total_loss
from search.searchers.surrogate.quadratic import Quadratic, fit

MOST_POINTS = 400
MOST_CANDIDATES = 400


def fitted(history: ProposalHistory, losses: tuple[FloatArray, ...]) -> Quadratic | None:
    """Fit the model to the best measured points; None while there are fewer than three."""
    if len(history.told) < 3:
        return None
    points = np.array(list(history.told), dtype=np.int64)
    errors = compressed(np.array([each[0] for each in history.told.values()]))
    best = np.sort(np.argsort(errors, kind="stable")[:MOST_POINTS])
    return fit(points[best], errors[best], losses)


def compressed(errors: FloatArray) -> FloatArray:
    """Return errors on a scale that is linear near the best and logarithmic far from it: collapsed policies must not rule the fit."""
    above = errors - errors.min()
    typical = float(np.median(above))
    found: FloatArray = np.log1p(above / typical) if typical > 0 else above
    return found


def modelled(history: ProposalHistory, losses: tuple[FloatArray, ...]) -> Trial | None:
    """Open the candidate with the least mean - u * deviation, u drawn from Exp(1); None while there is no model or no candidate.

    With several objectives: the one that raises the hypervolume of (error, a cost drawn at random) most if it is as good as that.
    """
    model = fitted(history, losses)
    if model is None:
        return None
    target = under(history.problem, random_limits(history.problem, history.rng))
    points = _candidates(history, target, model)
    if not len(points):
        return None
    mean, deviation = model.predict(points)
    hoped = mean - history.rng.exponential() * deviation
    metrics = cost_objectives(history.problem)
    if metrics:
        hoped = -gains(history, metrics[int(history.rng.integers(len(metrics)))], points, hoped)
    return history.open(tuple(map(int, points[int(np.argmin(hoped))])))


def gains(history: ProposalHistory, metric: str, points: IntArray, hoped: FloatArray) -> FloatArray:
    """Return [N]: by how much points [N, D] with the compressed errors `hoped` [N] would raise the hypervolume of (error, metric).

    The front is that of the told points within the limits, their errors compressed too; the reference point is the greatest error told
    and the greatest cost in reach. Exact: the sum, over the steps of the front, of the part of each that a point would add.
    """
    told = np.array(list(history.told), dtype=np.int64)
    errors = compressed(np.array([each[0] for each in history.told.values()]))
    costs = history.problem.costs(told)[metric]
    order = np.argsort(costs, kind="stable")
    kept = order[~np.isin(order, infeasible(history.problem, told))]
    starts, ends = np.append(-np.inf, costs[kept]), np.append(costs[kept], cost_range(history.problem, metric)[1])
    height = np.maximum(np.minimum.accumulate(np.append(errors.max(), errors[kept])) - hoped[:, None], 0.0)
    width = np.maximum(ends - np.maximum(starts, history.problem.costs(points)[metric][:, None]), 0.0)
    found: FloatArray = (width * height).sum(axis=1)
    return found


def _candidates(history: ProposalHistory, target: Problem, model: Quadratic) -> IntArray:
    """Return the most promising new points under the limits of `target`; in a large space the neighbours of the best points."""
    unseen = history.unseen()
    if unseen is not None:
        left = np.delete(unseen, infeasible(target, unseen), axis=0)
        return left[np.argsort(total_loss(left, *model.terms()), kind="stable")[:MOST_CANDIDATES]]
    best = history.incumbents(target, 4)
    near = [neighbours(history, target, point, most=MOST_CANDIDATES) for point in best]
    return np.unique(np.concatenate(near), axis=0) if near else np.empty((0, len(target.cardinalities)), dtype=np.int64)
