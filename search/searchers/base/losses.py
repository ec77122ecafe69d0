"""Estimates of the error per choice, for the searchers and repairs that use them."""

import numpy as np

from search.problem.problem import FloatArray, Problem
from search.problem.repair import padded, uses_losses


def losses(problem: Problem) -> tuple[FloatArray, ...]:
    """Return per dimension [K_d] the estimated rise of the error, least at 0: the problem's sensitivities.

    A problem without sensitivities gets the rank of the choices instead: more expensive is better, equally in every dimension.
    """
    if problem.sensitivity is None:
        return tuple(np.linspace(1.0, 0.0, k) for k in problem.cardinalities)
    return tuple(np.asarray(table, dtype=np.float64) - np.min(table) for table in problem.sensitivity())


def losses_for(problem: Problem, repair: str) -> FloatArray | None:
    """Return the padded losses [D, K] where the repair uses them, else None, so that sensitivities that nothing uses are not measured."""
    return padded(losses(problem)) if uses_losses(repair) and problem.limits else None
