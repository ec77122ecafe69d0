"""How much accuracy a policy is expected to lose: what was measured, corrected for its being the best of many on few examples.

The measured loss of a policy that was chosen for it is partly luck. How often a policy answers otherwise than the float network is known
far better, and the loss goes with it. So the loss is drawn towards what policies lose that differ as often, by parametric empirical Bayes
(Morris, JASA 78, 1983, section 1; Efron, "Tweedie's formula and selection bias", JASA 106, 2011):

    loss_i ~ N(k f_i, (t f_i)^2)           measured_i ~ N(loss_i, se_i^2)
    expected_i = (t^2 f_i^2 measured_i + se_i^2 k f_i) / (t^2 f_i^2 + se_i^2)

with f_i the share of examples in which policy and float network differ, and k and t by moments over all policies of the sweep that differ
in at most `NEAR` of the examples.
"""

import math

import numpy as np

from search.problem.pareto import FloatArray
from search.records.record import SweepRecord, TrialRecord

ERROR = "accuracy_drop_se"
"""The standard error of the paired differences with the float network (`search.evaluation.paired`)."""
NEAR = 0.1
FEWEST = 10
"""Policies that tell how losses go with differences; of fewer the best one is not lucky by much."""


def drop(sweep: SweepRecord, trial: TrialRecord) -> float:
    """Return how much worse a policy is than the float network on validation, in the unit of the record; NaN where one is not known."""
    first = sweep.infos[0]
    value = sweep.baseline.get(f"{first.name}_valid", math.nan) - trial.result.figures.get(first.name, math.nan)
    return value if first.higher else -value


def expected_drop(sweep: SweepRecord, trial: TrialRecord) -> float:
    """Return the expected loss of a policy, in the unit of the record; the measured one where too little is recorded."""
    return sweep.once("_expected", _expected).get(trial.number, drop(sweep, trial))


def _expected(sweep: SweepRecord) -> dict[int, float]:
    """Return the expected losses by trial number."""
    count = sweep.judged("valid")[0]
    judged = [trial for trial in sweep.trials if trial.result.ok and trial.repeated < 0 and ERROR in trial.result.metrics] if count else []
    measured = np.array([drop(sweep, trial) for trial in judged])
    errors = np.array([trial.result.metrics[ERROR] for trial in judged])
    differing = _differing(measured, errors, count)
    near = np.isfinite(measured) & (differing <= NEAR)
    if near.sum() < FEWEST or not differing[near].any():
        return {}
    slope = min(max(measured[near].sum() / differing[near].sum(), 0.0), 1.0)
    beyond = np.sum((measured[near] - slope * differing[near]) ** 2 - errors[near] ** 2) / np.sum(differing[near] ** 2)
    spread = max(0.0, float(beyond)) * differing**2
    expected = (spread * measured + errors**2 * slope * differing) / (spread + errors**2)
    return {trial.number: float(value) for trial, value in zip(judged, expected, strict=True) if math.isfinite(value)}


def _differing(measured: FloatArray, errors: FloatArray, count: float) -> FloatArray:
    """Return the share of examples whose scores differ: their squared differences, which the standard error holds (`paired`)."""
    taken = count + 2.0
    mean = measured * count / taken
    return np.maximum(0.0, (errors**2 * taken + mean**2) * taken - 1.0) / count
