"""A sweep at a glance: its best policy, its best uniform policy, the suggested pick, and their figures in units that people read."""

import math
from collections.abc import Mapping, Sequence

from search.records.expected import expected_drop
from search.records.front import Row, figures, keeps_limits, keeps_quality, row_of
from search.records.record import SweepRecord, TrialRecord
from search.records.selection import rank, suggestion
from search.records.units import unit_of
from search.tasks.metrics.info import MetricInfo

BASELINE = "baseline"
DECIMALS = 6
COSTS = {"weight_bytes": "size", "latency_s": "latency", "energy_j": "energy"}
_WORDS = {"%": "percent"}  # MLflow takes no signs in names of metrics


def best_uniform(sweep: SweepRecord, trials: Sequence[TrialRecord] | None = None) -> TrialRecord | None:
    """Return the uniform policy of the least error among those within the limits; of equals the smallest, then the first.

    `trials` stand in for the sweep's.
    """
    ended = [trial for trial in (sweep.trials if trials is None else trials) if trial.origin == BASELINE and trial.result.ok]
    kept = [trial for trial in ended if keeps_limits(trial, sweep.limits) and keeps_quality(figures(trial), sweep)]
    return min(kept, key=rank, default=None)


def best(members: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the member of a front of the least error: the best within the sweep's limits; of equals the smallest, then the first."""
    return min(members, key=rank, default=None)


def suggested(sweep: SweepRecord, members: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the member that is suggested, see `selection.suggestion`; None where the front is empty."""
    selection = suggestion(sweep, members)
    return selection.trial if selection else None


def examples_run(sweep: SweepRecord) -> tuple[int, int]:
    """Return how many validation examples the evaluations ran through, and how many that were had none been stopped.

    Trials that repeat another or failed count nothing, nor do those that were stopped before the validation split.
    """
    seen = [trial.result.examples for trial in sweep.trials if trial.repeated < 0 and trial.result.examples]
    return sum(seen), len(seen) * int(sweep.baseline.get("examples_valid", 0))


def front_lines(sweep: SweepRecord, members: Sequence[TrialRecord], rows: Sequence[Row]) -> list[Row]:
    """Return the rows of a front for people: from small to large, with `mark` and standard errors, then best uniform policy and float.

    The best uniform policy has a line of its own only where it is not on the front. `se_..._valid` and `se_..._test` are there where the
    record says how many examples there were.
    """
    uniform, pick = best_uniform(sweep), suggested(sweep, members)
    marks: dict[object, list[str]] = {row["trial"]: ["knee"] for row in rows if row["knee"]}
    for trial, word in ((pick, "suggested"), (uniform, "best uniform")):
        if trial is not None:
            marks.setdefault(trial.number, []).append(word)
    cost = "weight_bytes" if all(row.get("weight_bytes") is not None for row in rows) else "trial"
    lines = sorted(rows, key=lambda row: (_number(row[cost]), _number(row["trial"])))
    if uniform is not None and uniform not in members:
        lines.append(row_of(sweep, uniform, -1))
    judge = sweep.infos[0].name
    empty: Row = dict.fromkeys(lines[0] if lines else ())
    of_float = {key: sweep.baseline[key] for key in empty if key.endswith(("_valid", "_test")) and key in sweep.baseline}
    lines.append(empty | of_float | {"id": "float", "weight_bytes": sweep.baseline.get("weight_bytes"), "knee": False})
    return [line | _errors(sweep, judge, line) | {"mark": ", ".join(marks.get(line["trial"], []))} for line in lines]


def written_rows(sweep: SweepRecord, members: Sequence[TrialRecord], rows: Sequence[Row]) -> list[Row]:
    """Return rows with all that the record holds of their trials, as `--json` writes them: origin, standard errors, limits, the policy."""
    uniform, pick = best_uniform(sweep), suggested(sweep, members)
    trials = {trial.number: trial for trial in sweep.trials}
    limits, written = {**sweep.limits, **sweep.quality_limits}, []
    for row in rows:
        trial = trials[int(_number(row["trial"]))]
        errors = _errors(sweep, sweep.infos[0].name, row)
        flags: Row = {"origin": trial.origin, "status": trial.result.status, "suggested": trial is pick, "best_uniform": trial is uniform}
        parts = {"figures": dict(trial.result.figures), "test": dict(trial.test), "float": dict(sweep.baseline), "limits": limits}
        lost = expected_drop(sweep, trial)
        flags["expected_drop"] = None if math.isnan(lost) else lost
        written.append(row | errors | flags | parts | {"policy": trial.policy.to_json()})
    return written


def _errors(sweep: SweepRecord, judge: str, line: Row) -> Row:
    """Return the standard errors of a line's accuracies."""
    errors: Row = {}
    for split, word in (("valid", "validation"), ("test", "test")):
        value = line.get(f"{judge}_{split}")
        errors[f"se_{split}"] = standard_error(sweep, judge, word, value) if isinstance(value, float) else None
    return errors


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.inf


def headline(sweep: SweepRecord, members: Sequence[TrialRecord], uniform: TrialRecord | None, trials: int) -> dict[str, float]:
    """Return the figures of a sweep in a list of sweeps, by names that end in their units; those not known are left out.

    Args:
        sweep: its float network, limits and objectives.
        members: its front.
        uniform: its best uniform policy.
        trials: how many have ended.
    """
    infos, judge = sweep.infos, sweep.infos[0].name
    of_float = {f"{judge}_{split}": sweep.baseline.get(f"{judge}_{split}") for split in ("valid", "test")}
    values = {"trials": float(trials)} | readable(of_float | {"weight_bytes": sweep.baseline.get("weight_bytes")}, "float", infos)
    for word, trial in (("best", best(members)), ("suggested", suggested(sweep, members)), ("uniform", uniform)):
        if trial is not None:
            judged = {f"{judge}_valid": figures(trial).get(judge), f"{judge}_test": trial.test.get(judge)}
            values |= readable(judged | {cost: figures(trial).get(cost) for cost in COSTS}, word, infos)
    return {name: round(value, 3 if name.endswith("_percent") else 4) for name, value in values.items()}


def standard_error(sweep: SweepRecord, metric: str, split: str, value: float) -> float | None:
    """Return the standard error of an accuracy on "validation" or "test": sqrt(p (1 - p) / n), of n predictions judged one by one.

    Of a language model a token is a prediction. Where scores lie between 0 and 1 it is an upper bound. None for other metrics, and for a
    record that does not say n.
    """
    count, _ = sweep.judged("valid" if split == "validation" else split)
    if metric != "accuracy" or count < 1:
        return None
    return math.sqrt(max(0.0, value * (1.0 - value)) / count)


def readable(values: Mapping[str, float | None], word: str = "", infos: Sequence[MetricInfo] = ()) -> dict[str, float]:
    """Return figures in their units under names that say the unit, as `best_size_KiB`; None is left out.

    `infos` are the task's metrics, whose units it says.

    >>> readable({"accuracy": 0.975, "latency_s": 0.002, "energy_j": None})
    {'accuracy_percent': 97.5, 'latency_ms': 2.0}
    """
    named = {}
    for metric, value in values.items():
        unit = unit_of(metric, infos)
        name = metric.removeprefix("accuracy_") if word else metric
        parts = (word, COSTS.get(metric, name), _WORDS.get(unit.name, unit.name))
        if value is not None:
            named["_".join(part for part in parts if part)] = round(value / unit.size, DECIMALS)
    return named
