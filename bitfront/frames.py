"""A recorded sweep as tables: its front beside the best uniform policy and the float network, and all of its trials."""

import math
from collections.abc import Sequence

import pandas as pd

from search.records import front as fronts
from search.records.record import ACCURACY, SweepRecord, TrialRecord
from search.records.summary import best_uniform
from search.records.units import label, scaled
from search.tasks.metrics.info import MetricInfo

FLOAT = "float"
_COSTS = ("weight_bytes", "latency_s", "energy_j")
_LAST = ("bits_weight_avg",)


def front_members(record: SweepRecord) -> tuple[TrialRecord, ...]:
    """Return the trials on the front, by number."""
    return fronts.front_members(record)


def pick_trial(record: SweepRecord, text: str) -> TrialRecord:
    """Return the trial that `knee`, `best-under:METRIC=LIMIT`, a policy id or a trial number names."""
    return fronts.pick(record, text)


def figures(trial: TrialRecord, infos: Sequence[MetricInfo] = (ACCURACY,)) -> dict[str, float]:
    """Return the figures of a trial by name: `accuracy_valid` (or the task's metrics), `accuracy_test` where measured, and every cost."""
    metrics, names = dict(fronts.figures(trial)), [info.name for info in infos]
    named = {f"{name}_valid": metrics.pop(name) for name in names if name in metrics}
    metrics.pop("error", None)
    test = {f"{name}_test": trial.test[name] for name in names if name in trial.test}
    return named | test | metrics


def float_figures(record: SweepRecord) -> dict[str, float]:
    """Return the figures of the float network: metrics and `weight_bytes`."""
    return {name: value for name, value in record.baseline.items() if name in _first(record)} | {"bits_weight_avg": 32.0}


def _first(record: SweepRecord) -> tuple[str, ...]:
    return (*(f"{info.name}_{split}" for info in record.infos for split in ("valid", "test")), *_COSTS)


def front_frame(record: SweepRecord) -> pd.DataFrame:
    """Return one row per policy of the front, from cheap to expensive, then the best uniform policy and the float network.

    The best uniform policy has a row of its own only where it is not on the front; the column `best uniform` marks it in either case.
    """
    members, uniform = front_members(record), best_uniform(record)
    cost = record.objectives[1] if len(record.objectives) > 1 else f"{record.infos[0].name}_valid"
    ordered = sorted(members, key=lambda trial: (figures(trial, record.infos).get(cost, math.inf), trial.number))
    kinds = [("front", trial) for trial in ordered]
    if uniform is not None and uniform.number not in {trial.number for trial in members}:
        kinds.append(("uniform", uniform))
    table = _table([figures(trial, record.infos) for _, trial in kinds] + [float_figures(record)], record)
    knee = fronts.knee_number(members, record.objectives)
    table.insert(0, "kind", [kind for kind, _ in kinds] + [FLOAT])
    table.insert(1, "trial", pd.array([*(trial.number for _, trial in kinds), None], dtype="Int64"))
    table["fidelity"] = [trial.result.fidelity for _, trial in kinds] + [FLOAT]
    table["knee"] = [trial.number == knee for _, trial in kinds] + [False]
    table["best uniform"] = [uniform is not None and trial.number == uniform.number for _, trial in kinds] + [False]
    table.index = pd.Index([trial.policy.id for _, trial in kinds] + [FLOAT], name="policy")
    return table


def trials_frame(record: SweepRecord) -> pd.DataFrame:
    """Return one row per trial, those that failed included, by number."""
    on_front = {trial.number for trial in front_members(record)}
    table = _table([figures(trial, record.infos) for trial in record.trials], record)
    table.insert(0, "policy", [trial.policy.id for trial in record.trials])
    table["fidelity"] = [trial.result.fidelity for trial in record.trials]
    table["status"] = [trial.result.status for trial in record.trials]
    table["origin"] = [trial.origin for trial in record.trials]
    table["on front"] = [trial.number in on_front for trial in record.trials]
    table["examples"] = [trial.result.examples for trial in record.trials]
    table["reason"] = [trial.result.reason for trial in record.trials]
    table.index = pd.Index([trial.number for trial in record.trials], name="trial")
    return table


def _table(rows: Sequence[dict[str, float]], record: SweepRecord) -> pd.DataFrame:
    """Return figures as columns of one unit; a figure that no row has gets no column."""
    wanted = dict.fromkeys((*_first(record), *(name for name in record.objectives if name != "error"), *_LAST))
    shown = [name for name in wanted if any(name in row for row in rows)]
    infos = record.metrics
    return pd.DataFrame({label(name, infos): [scaled(name, row.get(name, math.nan), infos) for row in rows] for name in shown})
