"""Proposals from the second-order model: the point that it expects to be best, with what it is unsure of counted in its favour."""

import numpy as np

from search.problem import FloatArray, IntArray, Problem, Trial
from search.repair import infeasible
from search.searchers.ledger import Ledger
from search.searchers.neighbours import neighbours
from search.searchers.nextbest import total_loss
from search.searchers.quadratic import Quadratic, fit
from search.searchers.targets import random_limits, under

MOST_POINTS = 400
MOST_CANDIDATES = 400


def fitted(ledger: Ledger, losses: tuple[FloatArray, ...]) -> Quadratic | None:
    """Fit the model to the best measured points; None while there are fewer than three."""
    if len(ledger.told) < 3:
        return None
    points = np.array(list(ledger.told), dtype=np.int64)
    errors = compressed(np.array([each[0] for each in ledger.told.values()]))
    best = np.sort(np.argsort(errors, kind="stable")[:MOST_POINTS])
    return fit(points[best], errors[best], losses)


def compressed(errors: FloatArray) -> FloatArray:
    """Return errors on a scale that is linear near the best and logarithmic far from it: collapsed policies must not rule the fit."""
    above = errors - errors.min()
    typical = float(np.median(above))
    found: FloatArray = np.log1p(above / typical) if typical > 0 else above
    return found


def modelled(ledger: Ledger, losses: tuple[FloatArray, ...]) -> Trial | None:
    """Open the candidate with the least mean - u * deviation, u drawn from Exp(1); None while there is no model or no candidate."""
    model = fitted(ledger, losses)
    if model is None:
        return None
    target = under(ledger.problem, random_limits(ledger.problem, ledger.rng))
    points = _candidates(ledger, target, model)
    if not len(points):
        return None
    mean, deviation = model.predict(points)
    best = points[int(np.argmin(mean - ledger.rng.exponential() * deviation))]
    return ledger.open(tuple(map(int, best)))


def _candidates(ledger: Ledger, target: Problem, model: Quadratic) -> IntArray:
    """Return the most promising new points under the limits of `target`; in a large space the neighbours of the best points."""
    unseen = ledger.unseen()
    if unseen is not None:
        left = np.delete(unseen, infeasible(target, unseen), axis=0)
        return left[np.argsort(total_loss(left, *model.terms()), kind="stable")[:MOST_CANDIDATES]]
    best = ledger.incumbents(target, 4)
    near = [neighbours(ledger, target, point, most=MOST_CANDIDATES) for point in best]
    return np.unique(np.concatenate(near), axis=0) if near else np.empty((0, len(target.cardinalities)), dtype=np.int64)
