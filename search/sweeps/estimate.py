"""The metric that a policy is expected to reach, from its estimated loss and the trials of a sweep."""

import numpy as np

from search.problem.problem import FloatArray, Values
from search.records.record import SweepRecord

FEWEST = 4
"""Trials that an estimate needs."""


def estimated_metric(sweep: SweepRecord, losses: tuple[FloatArray, ...], values: Values) -> float | None:
    """Return the task's first metric that a policy is expected to reach, from trials at the same fidelity ("ptq").

    The metric of the trials is fitted by a monotone step function of their summed sensitivities (isotonic regression; Barlow et al.,
    Statistical Inference under Order Restrictions, 1972), linear between its steps; beyond the trials it stays at the nearest one.

    Args:
        sweep: its trials.
        losses: per dimension [K_d] the estimated rise of the loss, as `search.searchers.base.losses` gives it.
        values: [D], the policy's point in the sweep's space.

    Returns:
        None where the sweep has too few trials.
    """
    from scipy.optimize import isotonic_regression

    info = sweep.infos[0]
    ended = [t for t in sweep.trials if t.result.ok and t.result.fidelity == "ptq" and len(t.values) == len(losses) and t.repeated < 0]
    if len(ended) < FEWEST:
        return None
    rises = np.array([_rise(losses, trial.values) for trial in ended])
    metrics = np.array([trial.result.metrics[info.name] for trial in ended])
    order = np.argsort(rises, kind="stable")
    fitted = isotonic_regression(metrics[order], increasing=not info.higher).x
    return float(np.interp(_rise(losses, values), rises[order], fitted))


def _rise(losses: tuple[FloatArray, ...], values: Values) -> float:
    return float(sum(table[value] for table, value in zip(losses, values, strict=True)))
