"""The front of a recorded sweep: its members, their figures, and picking one. Free of heavy imports."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from quant_core.util.errors import BitfrontError, InputError
from search.problem.pareto import FloatArray, best_under, knee, non_dominated, relative_hypervolume
from search.records.record import SweepRecord, TrialRecord

Row = dict[str, object]


def figures(trial: TrialRecord) -> dict[str, float]:
    """Return everything measured on validation and everything costed, by name."""
    return {**trial.result.cost, **trial.result.metrics}


def points(trials: Sequence[TrialRecord], objectives: Sequence[str]) -> FloatArray:
    """Return the objectives of trials as [N, m]; NaN where a trial lacks one."""
    known = [figures(trial) for trial in trials]
    return np.array([[each.get(name, math.nan) for name in objectives] for each in known], dtype=np.float64).reshape(-1, len(objectives))


def keeps_limits(trial: TrialRecord, limits: Mapping[str, float]) -> bool:
    """Tell whether a trial's cost is within every limit."""
    known = figures(trial)
    return all(known.get(metric, math.inf) <= limit for metric, limit in limits.items())


def front(sweep: SweepRecord) -> tuple[TrialRecord, ...]:
    """Return the non-dominated trials that ended well and keep every limit, by number. Of equal points the first trial stands."""
    able = [trial for trial in sweep.trials if trial.result.ok and trial.repeated < 0 and keeps_limits(trial, sweep.limits)]
    keep = non_dominated(points(able, sweep.objectives))
    return tuple(trial for trial, kept in zip(able, keep, strict=True) if kept)


def knee_number(trials: Sequence[TrialRecord], objectives: Sequence[str]) -> int:
    """Return the number of the knee of a front, or -1 where the front is empty."""
    return trials[knee(points(trials, objectives))].number if trials else -1


def volume(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> float:
    """Return the hypervolume of trials as a share of the box from 0 to the sweep's reference point."""
    return relative_hypervolume(points(trials, sweep.objectives), [sweep.reference[name] for name in sweep.objectives])


def row(sweep: SweepRecord, trial: TrialRecord, knee_trial: int) -> Row:
    """Return the figures of one policy as they are shown and written; None where a figure is not known."""
    known = figures(trial)
    return {
        "id": trial.policy.id,
        "trial": trial.number,
        "accuracy_valid": known.get("accuracy"),
        "accuracy_test": trial.test.get("accuracy"),
        "accuracy_float_test": sweep.baseline.get("accuracy_test"),
        "latency_s": known.get("latency_s"),
        "energy_j": known.get("energy_j"),
        "weight_bytes": known.get("weight_bytes"),
        "float_weight_bytes": sweep.baseline.get("weight_bytes"),
        "bits_weight_avg": known.get("bits_weight_avg"),
        "fidelity": trial.result.fidelity,
        "knee": trial.number == knee_trial,
    }


def front_rows(sweep: SweepRecord, members: Sequence[TrialRecord]) -> list[Row]:
    """Return the rows of a front."""
    knee_trial = knee_number(members, sweep.objectives)
    return [row(sweep, trial, knee_trial) for trial in members]


def all_rows(sweep: SweepRecord, members: Sequence[TrialRecord]) -> list[Row]:
    """Return a row for every trial, each with its `status`, whether it is on the front, and why it failed."""
    knee_trial, on_front = knee_number(members, sweep.objectives), {trial.number for trial in members}
    return [
        row(sweep, trial, knee_trial)
        | {
            "status": trial.result.status,
            "front": trial.number in on_front,
            "origin": trial.origin,
            "repeated": trial.repeated,
            "reason": trial.result.reason,
        }
        for trial in sweep.trials
    ]


def pick(sweep: SweepRecord, text: str) -> TrialRecord:
    """Return the policy that `knee`, `best-under:METRIC=LIMIT` or a policy id (or its beginning, or a trial number) names.

    Of several trials of one policy, as a ladder makes them, an id names the one on the front, else the first; a number names each.

    Raises:
        InputError: no policy is named so, or none keeps the limit.
        BitfrontError: the front is empty.
    """
    members = front(sweep)
    if text == "knee" or text.startswith("best-under:"):
        if not members:
            raise BitfrontError(f"sweep {sweep.name!r} has an empty front: no finished trial keeps every limit. Run more trials.")
        return members[knee(points(members, sweep.objectives))] if text == "knee" else _best_under(members, text)
    named = [trial for trial in reversed(sweep.trials) if len(text) >= 4 and trial.policy.id.startswith(text)]
    found = {trial.policy.id: trial for trial in [*named, *(trial for trial in named if trial in members)]}
    if not found and text.isdecimal():
        found = {trial.policy.id: trial for trial in sweep.trials if trial.number == int(text)}
    if len(found) != 1:
        what = f"several policies ({', '.join(sorted(found))})" if found else "no policy"
        known = ", ".join(trial.policy.id for trial in members[:12]) or "none yet"
        raise InputError(
            f"{text!r} names {what} of sweep {sweep.name!r}; write knee, best-under:METRIC=LIMIT, a trial number or an id. "
            f"On the front: {known}."
        )
    return next(iter(found.values()))


def _best_under(members: Sequence[TrialRecord], text: str) -> TrialRecord:
    metric, equals, limit = text.removeprefix("best-under:").partition("=")
    known = sorted(figures(members[0]))
    try:
        bound = float(limit)
    except ValueError:
        bound = math.nan
    if not equals or metric not in known or math.isnan(bound):
        raise InputError(
            f"{text!r} given; write best-under:METRIC=LIMIT as in best-under:latency_s=0.002, METRIC one of {', '.join(known)}."
        )
    costs = points(members, (metric,))[:, 0]
    return members[best_under(points(members, ("error",))[:, 0], costs, bound)]
