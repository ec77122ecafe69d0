"""The front of a recorded sweep: its members, their figures, and picking one. Free of heavy imports."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.text import listed
from search.config.key_value import key_value
from search.problem.pareto import FloatArray, best_under, knee, non_dominated, relative_hypervolume
from search.records.record import SweepRecord, TrialRecord
from search.records.selection import SUGGESTED, max_drop_of, suggestion, within_drop

Row = dict[str, object]
PICKS = "suggested, max-drop=POINTS, knee, best-under:METRIC=LIMIT, a trial number or an id"
"""All forms of a pick, for messages."""
QUALITY_SLACK = 1e-9
"""Rounding within which a figure keeps a quality limit."""


def figures(trial: TrialRecord) -> Mapping[str, float]:
    """Return everything measured on validation and everything costed, by name."""
    return trial.result.figures


def points(trials: Sequence[TrialRecord], objectives: Sequence[str]) -> FloatArray:
    """Return the objectives of trials as [N, m]; NaN where a trial lacks one."""
    rows = [[_figure(trial, name, math.nan) for name in objectives] for trial in trials]
    return np.array(rows, dtype=np.float64).reshape(-1, len(objectives))


def _figure(trial: TrialRecord, name: str, absent: float) -> float:
    """Return one of `figures`, without putting all together: a sweep may have tens of thousands of trials."""
    metrics, cost = trial.result.metrics, trial.result.cost
    return metrics[name] if name in metrics else cost.get(name, absent)


def keeps_limits(trial: TrialRecord, limits: Mapping[str, float]) -> bool:
    """Tell whether a trial's cost is within every limit."""
    return all(_figure(trial, metric, math.inf) <= limit for metric, limit in limits.items())


def keeps_quality(values: Mapping[str, float], sweep: SweepRecord) -> bool:
    """Tell whether figures on validation are no worse than any quality limit of a sweep."""
    higher = {info.name: info.higher for info in sweep.infos}
    for name, limit in sweep.quality_limits.items():
        value = values.get(name, math.nan)
        if not (value >= limit - QUALITY_SLACK if higher.get(name, False) else value <= limit + QUALITY_SLACK):
            return False
    return True


def front_members(sweep: SweepRecord) -> tuple[TrialRecord, ...]:
    """Return the non-dominated trials that ended well and keep every limit, by number. Of equal points the first trial counts."""
    return sweep.once("_members", _members)  # a page asks some fifteen times


def _members(sweep: SweepRecord) -> tuple[TrialRecord, ...]:
    ended = [trial for trial in sweep.trials if trial.result.ok and trial.repeated < 0]
    candidates = [trial for trial in ended if keeps_limits(trial, sweep.limits)] if sweep.limits else ended
    if sweep.quality_limits:
        candidates = [trial for trial in candidates if keeps_quality(figures(trial), sweep)]
    keep = non_dominated(points(candidates, sweep.objectives))
    return tuple(trial for trial, kept in zip(candidates, keep, strict=True) if kept)


def knee_number(trials: Sequence[TrialRecord], objectives: Sequence[str]) -> int:
    """Return the number of the knee of a front, or -1 where the front is empty."""
    return trials[knee(points(trials, objectives))].number if trials else -1


def hypervolume_of(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> float:
    """Return the hypervolume of trials as a share of the box from 0 to the sweep's reference point."""
    return relative_hypervolume(points(trials, sweep.objectives), [sweep.reference[name] for name in sweep.objectives])


def row_of(sweep: SweepRecord, trial: TrialRecord, knee_trial: int) -> Row:
    """Return the figures of one policy as they are shown and written; None where a figure is not known."""
    values = figures(trial)
    return {
        "id": trial.policy.id,
        "trial": trial.number,
        "accuracy_valid": values.get("accuracy"),
        "accuracy_test": trial.test.get("accuracy"),
        "accuracy_float_test": sweep.baseline.get("accuracy_test"),
        **_metrics_of(sweep, trial),
        "latency_s": values.get("latency_s"),
        "energy_j": values.get("energy_j"),
        "weight_bytes": values.get("weight_bytes"),
        "float_weight_bytes": sweep.baseline.get("weight_bytes"),
        "bits_weight_avg": values.get("bits_weight_avg"),
        "fidelity": trial.result.fidelity,
        "knee": trial.number == knee_trial,
    }


def _metrics_of(sweep: SweepRecord, trial: TrialRecord) -> Row:
    """Return the figures of the task's metrics but for the accuracy, which every row has."""
    row: Row = {}
    for name in (info.name for info in sweep.metrics if info.name != "accuracy"):
        row |= {f"{name}_valid": figures(trial).get(name), f"{name}_test": trial.test.get(name)}
        row |= {f"{name}_float_test": sweep.baseline.get(f"{name}_test")}
    return row


def front_rows(sweep: SweepRecord, members: Sequence[TrialRecord]) -> list[Row]:
    """Return the rows of a front."""
    knee_trial = knee_number(members, sweep.objectives)
    return [row_of(sweep, trial, knee_trial) for trial in members]


def all_rows(sweep: SweepRecord, members: Sequence[TrialRecord]) -> list[Row]:
    """Return a row for every trial, each with its `status`, whether it is on the front, and why it failed."""
    knee_trial, on_front = knee_number(members, sweep.objectives), {trial.number for trial in members}
    return [
        row_of(sweep, trial, knee_trial)
        | {
            "status": trial.result.status,
            "front": trial.number in on_front,
            "origin": trial.origin,
            "repeated": trial.repeated,
            "reason": trial.result.reason,
            "examples": trial.result.examples,
        }
        for trial in sweep.trials
    ]


def pick(sweep: SweepRecord, text: str) -> TrialRecord:
    """Return the policy that a text names.

    That is `suggested`, `max-drop=POINTS` (`selection.within_drop`), `knee`, `best-under:METRIC=LIMIT`, a trial number, or a policy id or
    its beginning.

    Of several trials of one policy, as a ladder makes them, an id names the one on the front, else the first; a number names each.

    Raises:
        InputError: no policy is named so, or none keeps the limit.
        BitfrontError: the front is empty.
    """
    members = front_members(sweep)
    if text in ("knee", SUGGESTED) or text.startswith(("best-under:", "max-drop=")):
        if not members:
            raise BitfrontError(f"sweep {sweep.name!r} has an empty front: no finished trial keeps every limit. Run more trials.")
        return _of_front(sweep, members, text)
    named = [trial for trial in reversed(sweep.trials) if len(text) >= 4 and trial.policy.id.startswith(text)]
    matches = {trial.policy.id: trial for trial in [*named, *(trial for trial in named if trial in members)]}
    if not matches and text.isdecimal():
        matches = {trial.policy.id: trial for trial in sweep.trials if trial.number == int(text)}
    if len(matches) != 1:
        what = f"several policies ({listed(sorted(matches))})" if matches else "no policy"
        listing = ", ".join(trial.policy.id for trial in members[:12]) or "none yet"
        raise InputError(f"{text!r} names {what} of sweep {sweep.name!r}; write {PICKS}. On the front: {listing}.")
    return next(iter(matches.values()))


def _of_front(sweep: SweepRecord, members: Sequence[TrialRecord], text: str) -> TrialRecord:
    if text == "knee":
        return members[knee(points(members, sweep.objectives))]
    max_drop, selection = max_drop_of(text), suggestion(sweep, members)
    if max_drop is not None:
        return within_drop(sweep, members, max_drop).trial
    return selection.trial if text == SUGGESTED and selection else _best_under(members, text)


def _best_under(members: Sequence[TrialRecord], text: str) -> TrialRecord:
    form = "best-under:METRIC=LIMIT"
    metric, text_of_limit = key_value(text.removeprefix("best-under:"), "pick", form, "best-under:latency_s=0.002")
    metrics = sorted(figures(members[0]))
    try:
        bound = float(text_of_limit)
    except ValueError:
        bound = math.nan
    if metric not in metrics or math.isnan(bound):
        raise InputError(f"{text!r} given; write {form} as in best-under:latency_s=0.002, METRIC one of {listed(metrics)}.")
    costs = points(members, (metric,))[:, 0]
    return members[best_under(points(members, ("error",))[:, 0], costs, bound)]
