"""Choosing one policy of a front by the accuracy that it may lose: the smallest one whose loss is within a limit, at 90 % confidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quant_core.spec.kv_cache import KV_BYTES
from quant_core.util.errors import InputError
from quant_core.util.registry import unknown
from search.records.expected import ERROR, drop, expected_drop
from search.records.record import SweepRecord, TrialRecord

CONFIDENCE = 0.9
QUANTILE = 1.2815515655446004
"""Of the standard normal distribution at `CONFIDENCE`, one-sided."""
DROP = 0.5
"""Points of accuracy that the suggested policy may lose."""
SUGGESTED = "suggested"
"""The pick where none is named."""
SLACK = 1e-9
"""Of an accuracy, so that 0.5 points mean 0.5 points in floating-point numbers too."""


@dataclass(frozen=True)
class Selection:
    """A chosen policy.

    Attributes:
        trial: the policy.
        note: by what it was chosen, in words.
        sure: its loss is within the limit at 90 % confidence as well.
        near: its expected loss is within the limit.
    """

    trial: TrialRecord
    note: str
    sure: bool
    near: bool


def bound(sweep: SweepRecord, trial: TrialRecord) -> float:
    """Return the upper confidence bound of the drop, drop + 1.28 standard errors of the paired differences; NaN where not known."""
    return drop(sweep, trial) + QUANTILE * trial.result.figures.get(ERROR, math.nan)


def within_drop(sweep: SweepRecord, members: Sequence[TrialRecord], max_drop: float, by: str = "") -> Selection:
    """Return the member of least cost whose drop is within `max_drop` at 90 % confidence, and whose expected loss is.

    Where there is none: the one of least cost whose expected loss is within it, else the one of the least error; the note says so.

    Args:
        sweep: its float network and metrics.
        members: of its front, at least one.
        max_drop: in points: 0.5 takes 97.5 % where float has 98.0 %, and a correlation of 0.975 where float has 0.98; of a metric that does
            not lie between 0 and 1 in its unit.
        by: the cost; by default the first one among the objectives.

    Raises:
        InputError: `max_drop` is negative or no number, or no member has the cost.
    """
    if not 0.0 <= max_drop < math.inf:
        raise InputError(f"max-drop = {max_drop:g} given; write how many points of accuracy may be lost, as in max-drop=0.5.")
    cost = by or cost_of(sweep)
    if any(cost not in trial.result.figures for trial in members):
        raise unknown("metric", cost, [name for name in members[0].result.figures if all(name in t.result.figures for t in members)])
    info = sweep.infos[0]
    limit = max_drop * info.point + SLACK
    words = " ".join(part for part in (f"{max_drop:g}", "points" if info.point < 1 else info.unit, "of float") if part)
    near = [trial for trial in members if expected_drop(sweep, trial) <= limit]
    sure = [trial for trial in near if bound(sweep, trial) <= limit]
    if sure or near:
        trial = min(sure or near, key=lambda member: (member.result.figures[cost], expected_drop(sweep, member), member.number))
        how = f"at {CONFIDENCE:.0%} confidence" if sure else f"by the estimate; {_why_unsure(sweep, near)}"
        return Selection(trial, f"smallest {_title(cost)} within {words} on validation, {how}{_corrected(sweep, trial)}", bool(sure), True)
    best = min(members, key=rank)
    note = f"no policy is within {words} on validation; this one loses least"
    lost = drop(sweep, best) / info.point
    points = " points" if info.point < 1 else ""
    return Selection(best, note if math.isnan(lost) else f"{note}, {lost:.2f}{points}{_corrected(sweep, best)}", False, False)


def _corrected(sweep: SweepRecord, trial: TrialRecord) -> str:
    """Return the expected loss in words; "" where it is the measured one."""
    info = sweep.infos[0]
    lost, seen = (f"{value / info.point:.2f}" for value in (expected_drop(sweep, trial), drop(sweep, trial)))
    return "" if lost == seen else f"; expected loss {lost}{' points' if info.point < 1 else ''}, measured {seen}"


def cost_of(sweep: SweepRecord) -> str:
    """Return the first cost among the objectives, or the bytes of the weights where there is none."""
    return next((name for name in sweep.objectives if name not in ("error", "loss")), "weight_bytes")


def _why_unsure(sweep: SweepRecord, near: Sequence[TrialRecord]) -> str:
    if not any(ERROR in trial.result.figures for trial in near):
        return "how sure that is was not measured"
    count, what = sweep.judged("valid")
    return f"no policy is so at {CONFIDENCE:.0%} confidence on {count or math.nan:.0f} {what}"


def _title(cost: str) -> str:
    return "KV cache" if cost == KV_BYTES else cost.rpartition("_")[0].replace("_", " ") or cost


def max_drop_of(text: str) -> float | None:
    """Return the limit that `max-drop=0.5` states; None where a pick is named otherwise.

    Raises:
        InputError: it is no number.
    """
    head, _, value = text.partition("=")
    if head != "max-drop":
        return None
    try:
        return float(value)
    except ValueError:
        raise InputError(f"{text!r} given; write how many points of accuracy may be lost, as in max-drop=0.5.") from None


def suggestion(sweep: SweepRecord, members: Sequence[TrialRecord]) -> Selection | None:
    """Return the member of a front that is suggested: by `max-drop=0.5` of a metric in %, of another metric the one of the least error.

    None where the front is empty.
    """
    priced = [trial for trial in members if cost_of(sweep) in trial.result.figures]
    if priced and sweep.infos[0].unit == "%":
        return within_drop(sweep, priced, DROP)
    return Selection(min(members, key=rank), "least error on validation", False, False) if members else None


def rank(trial: TrialRecord) -> tuple[float, float, int]:
    """Return the order of policies from the best on: by error; of equals the smallest, then the first."""
    values = trial.result.figures
    return values.get("error", math.inf), values.get("weight_bytes", 0.0), trial.number
