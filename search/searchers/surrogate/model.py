"""Proposals from the second-order model: least lower confidence bound of the error, or greatest hypervolume gain by that bound."""

import numpy as np

from search.problem.problem import FloatArray, IntArray, Problem, Trial
from search.problem.repair import infeasible
from search.searchers.base.history import ProposalHistory
from search.searchers.base.neighbours import distinct, neighbours
from search.searchers.base.targets import cost_objectives, cost_range, random_limits, with_limits
from search.searchers.solvers.next_best import total_loss
from search.searchers.surrogate.quadratic import MANY, Quadratic, fit

MOST_POINTS = 400
MOST_OF_LARGE = 200
"""Measured points that the model is fitted to, at most; the second number holds above `MANY` dimensions."""
MOST_CANDIDATES = 400
LEAST_CANDIDATES = 50
MOST_ENTRIES = 40_000
"""Neighbours of one point in a large space times its dimensions, between the two numbers of candidates above."""
MANY_DIMENSIONS = 150
"""Above so many dimensions there are fewer entries, too, in proportion."""


def fit_to_history(history: ProposalHistory, losses: tuple[FloatArray, ...]) -> Quadratic | None:
    """Fit the model to the best measured points; None while there are fewer than three."""
    if len(history.told) < 3:
        return None
    points = np.array(list(history.told), dtype=np.int64)
    errors = compressed(np.array([objectives[0] for objectives in history.told.values()]))
    best = np.sort(np.argsort(errors, kind="stable")[: MOST_OF_LARGE if points.shape[1] > MANY else MOST_POINTS])
    return fit(points[best], errors[best], losses, history.correlations)


def compressed(errors: FloatArray) -> FloatArray:
    """Return errors on a scale that is linear near the best and logarithmic far from it, as collapsed policies would dominate the fit."""
    above = errors - errors.min()
    typical = float(np.median(above))
    scaled: FloatArray = np.log1p(above / typical) if typical > 0 else above
    return scaled


def propose_by_model(history: ProposalHistory, losses: tuple[FloatArray, ...]) -> Trial | None:
    """Open the candidate with the best acquisition; None while there is no model or no candidate.

    The acquisition is the lower confidence bound of the error, mean - u * deviation with u drawn from Exp(1); with several objectives
    the gain in hypervolume of (error, a cost drawn at random) that this bound would bring.
    """
    model = fit_to_history(history, losses)
    if model is None:
        return None
    target = with_limits(history.problem, random_limits(history.problem, history.rng))
    points = _candidates(history, target, model)
    return open_best(history, model, points, history.rng.exponential()) if len(points) else None


def open_best(history: ProposalHistory, model: Quadratic, points: IntArray, optimism: float) -> Trial:
    """Open the one of points [N, D], N >= 1, with the best acquisition (see `propose_by_model`), `optimism` deviations below the mean."""
    mean, deviation = model.predict(points)
    acquisition = bound = mean - optimism * deviation
    metrics = cost_objectives(history.problem)
    if metrics:
        acquisition = -hypervolume_gains(history, metrics[int(history.rng.integers(len(metrics)))], points, bound)
    return history.open(tuple(map(int, points[int(np.argmin(acquisition))])))


def hypervolume_gains(history: ProposalHistory, metric: str, points: IntArray, bound: FloatArray) -> FloatArray:
    """Return [N]: by how much points [N, D] with the compressed errors `bound` [N] would raise the hypervolume of (error, metric).

    The front is that of the feasible told points, their errors compressed too; the reference point is the greatest error told and the
    greatest cost that a limit allows. Exact: the sum, over the steps of the front, of the part of each that a point would add.
    """
    told = np.array(list(history.told), dtype=np.int64)
    errors = compressed(np.array([objectives[0] for objectives in history.told.values()]))
    costs = history.problem.costs(told, [metric])[metric]
    order = np.argsort(costs, kind="stable")
    kept = order[~np.isin(order, infeasible(history.problem, told))]
    starts, ends = np.append(-np.inf, costs[kept]), np.append(costs[kept], cost_range(history.problem, metric)[1])
    height = np.maximum(np.minimum.accumulate(np.append(errors.max(), errors[kept])) - bound[:, None], 0.0)
    width = np.maximum(ends - np.maximum(starts, history.problem.costs(points, [metric])[metric][:, None]), 0.0)
    gains: FloatArray = (width * height).sum(axis=1)
    return gains


def _candidates(history: ProposalHistory, target: Problem, model: Quadratic) -> IntArray:
    """Return the most promising new points under the limits of `target`; in a large space the neighbours of the best points."""
    unseen = history.unseen()
    if unseen is not None:
        left = np.delete(unseen, infeasible(target, unseen), axis=0)
        return left[np.argsort(total_loss(left, *model.terms()), kind="stable")[:MOST_CANDIDATES]]
    best = history.incumbents(target, 4)
    count = len(target.cardinalities)
    entries = MOST_ENTRIES * min(count, MANY_DIMENSIONS) // count
    most = max(LEAST_CANDIDATES, min(MOST_CANDIDATES, entries // count))
    near = [neighbours(history, target, point, most=most) for point in best]
    return distinct(np.concatenate(near)) if near else np.empty((0, len(target.cardinalities)), dtype=np.int64)
