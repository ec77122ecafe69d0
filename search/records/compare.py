"""Comparing sweeps as plain data: hypervolume with one reference point, dominated share, attainment, differences of picked policies."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quant_core.util.errors import InputError
from quant_core.util.text import listed
from search.problem.pareto import FloatArray, attainment, coverage, relative_hypervolume
from search.records.front import Row, figures, front_members, pick, points
from search.records.record import SweepRecord, TrialRecord
from search.records.selection import SUGGESTED
from search.tasks.metrics.info import MetricInfo

BUDGETS = 5


@dataclass(frozen=True)
class Comparison:
    """The figures by which several sweeps are compared.

    Attributes:
        names: how each sweep is called here; unique.
        sweeps, fronts: in the order given.
        objectives: those that every front member of every sweep has a figure for, "error" first.
        reference: one reference point for all, per objective.
        hypervolume: per sweep, the share of the box from 0 to the reference.
        coverage: [i][j] the share of front j that front i equals or dominates.
        attained: cost -> rows of a budget and the best validation accuracy (or metric) that each sweep reaches within it.
        picked: per sweep, the policy that the caller asked to compare; None where its front has none.
        layers: per layer, what each picked policy does, and whether they all do the same.
    """

    names: tuple[str, ...]
    sweeps: tuple[SweepRecord, ...]
    fronts: tuple[tuple[TrialRecord, ...], ...]
    objectives: tuple[str, ...]
    reference: Mapping[str, float]
    hypervolume: tuple[float, ...]
    coverage: tuple[tuple[float, ...], ...]
    attained: Mapping[str, tuple[Row, ...]]
    picked: tuple[TrialRecord | None, ...]
    layers: tuple[Row, ...]

    def to_json(self) -> dict[str, object]:
        """Return the comparison as plain data."""
        rows = zip(self.names, self.sweeps, self.fronts, self.hypervolume, self.picked, strict=True)
        return {
            "sweeps": [
                {
                    "name": name,
                    "run_id": sweep.run_id,
                    "trials": len(sweep.trials),
                    "failed": sum(trial.result.failed for trial in sweep.trials),
                    "front": len(members),
                    "hypervolume": volume,
                    "picked": chosen.policy.id if chosen else None,
                }
                for name, sweep, members, volume, chosen in rows
            ],
            "objectives": list(self.objectives),
            "reference": dict(self.reference),
            "dominated_share": {a: dict(zip(self.names, row, strict=True)) for a, row in zip(self.names, self.coverage, strict=True)},
            "attainment": {metric: list(rows) for metric, rows in self.attained.items()},
            "layers": list(self.layers),
        }


def compare(sweeps: Sequence[SweepRecord], budgets: Mapping[str, Sequence[float]] | None = None, choice: str = SUGGESTED) -> Comparison:
    """Compare the fronts of two or more sweeps.

    Args:
        sweeps: what to compare; their fronts are taken within their own limits.
        budgets: cost -> budgets at which to say what each sweep attains; where absent, five spread evenly over the fronts' range.
        choice: the policy of each whose layers are set side by side, as `search.records.front.pick` takes it.

    Raises:
        InputError: fewer than two sweeps, different metrics, no cost in common, an unknown budget metric.
    """
    if len(sweeps) < 2:
        raise InputError(f"{len(sweeps)} sweep given; name two or more to compare.")
    judges = {sweep.infos[0].name: sweep.infos[0] for sweep in sweeps}
    if len(judges) > 1:
        raise InputError(f"the sweeps are judged by different metrics, {listed(judges)}; compare sweeps of one metric.")
    fronts = tuple(front_members(sweep) for sweep in sweeps)
    objectives = _common(sweeps, fronts)
    unknown = sorted(set(budgets or {}) - set(objectives[1:]))
    if unknown:
        raise InputError(f"budget for {listed(unknown)} given; the sweeps have in common: {listed(objectives[1:])}.")
    clouds = [points(members, objectives) for members in fronts]
    corner = _corner(sweeps, objectives, clouds)
    names = _names(sweeps)
    picked = tuple(pick(sweep, choice) if members else None for sweep, members in zip(sweeps, fronts, strict=True))
    return Comparison(
        names=names,
        sweeps=tuple(sweeps),
        fronts=fronts,
        objectives=objectives,
        reference=dict(zip(objectives, corner, strict=True)),
        hypervolume=tuple(relative_hypervolume(cloud, corner) for cloud in clouds),
        coverage=tuple(tuple(coverage(a, b) for b in clouds) for a in clouds),
        attained={
            metric: _attained(names, clouds, column, (budgets or {}).get(metric), sweeps[0].infos[0])
            for column, metric in enumerate(objectives)
            if column and (not budgets or metric in budgets)
        },
        picked=picked,
        layers=_layers(names, picked),
    )


def _common(sweeps: Sequence[SweepRecord], fronts: Sequence[Sequence[TrialRecord]]) -> tuple[str, ...]:
    """Return the objectives of any sweep that all fronts have figures for."""
    wanted = dict.fromkeys(name for sweep in sweeps for name in sweep.objectives if name != "error")
    common = tuple(name for name in wanted if all(name in figures(trial) for members in fronts for trial in members))
    if not common:
        raise InputError(f"the sweeps have no cost in common; their objectives: {'; '.join(listed(s.objectives) for s in sweeps[:10])}.")
    return ("error", *common)


def _corner(sweeps: Sequence[SweepRecord], objectives: Sequence[str], clouds: Sequence[FloatArray]) -> list[float]:
    """Return one reference point: the largest of the sweeps' own, or a tenth beyond the worst front member where none has one."""
    worst = np.vstack(clouds).max(axis=0) if sum(map(len, clouds)) else np.ones(len(objectives))
    stated = [[sweep.reference[name] for sweep in sweeps if name in sweep.reference] for name in objectives]
    return [max(values) if values else 1.1 * float(most) for values, most in zip(stated, worst, strict=True)]


def _names(sweeps: Sequence[SweepRecord]) -> tuple[str, ...]:
    count = Counter(sweep.name for sweep in sweeps)
    return tuple(sweep.name if count[sweep.name] == 1 else f"{sweep.name}-{sweep.run_id[:8]}" for sweep in sweeps)


def _attained(
    names: Sequence[str], clouds: Sequence[FloatArray], column: int, asked: Sequence[float] | None, info: MetricInfo
) -> tuple[Row, ...]:
    """Return per budget the best accuracy (or value of the metric `info`) of each sweep; None where none of its policies keeps it."""
    costs = np.concatenate([cloud[:, column] for cloud in clouds])
    if asked is None and len(costs) == 0:
        return ()
    budgets = np.asarray(asked if asked is not None else np.linspace(costs.min(), costs.max(), BUDGETS), dtype=np.float64)
    errors = [attainment(cloud[:, 0], cloud[:, column], budgets) for cloud in clouds]
    return tuple(
        {"budget": float(budget)}
        | {name: None if np.isinf(reached[i]) else info.value(float(reached[i])) for name, reached in zip(names, errors, strict=True)}
        for i, budget in enumerate(budgets)
    )


def _layers(names: Sequence[str], picked: Sequence[TrialRecord | None]) -> tuple[Row, ...]:
    """Return the choice of each picked policy for each layer; empty text where a network lacks the layer."""
    chosen = [trial.policy if trial else {} for trial in picked]
    layers = dict.fromkeys(layer for policy in chosen for layer in policy)
    texts = {layer: [str(policy[layer]) if layer in policy else "" for policy in chosen] for layer in layers}
    return tuple({"layer": layer, "same": len(set(specs)) == 1} | dict(zip(names, specs, strict=True)) for layer, specs in texts.items())
