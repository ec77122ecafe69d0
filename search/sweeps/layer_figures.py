"""The figures of single layers of a recorded sweep, from what is kept beside its sensitivities: no network is loaded. Free of torch."""

import numpy as np

from quant_core.util.errors import InputError
from search.config.files import loads
from search.records.front import front_members
from search.records.layers import LayerFigures
from search.records.record import SweepRecord
from search.records.summary import suggested
from search.sweeps.basis import Basis, kept, plan_of
from search.sweeps.plan import Plan
from search.sweeps.trust import require_trust

COSTS = ("weight_bytes", "latency_s", "energy_j")


def layer_figures(sweep: SweepRecord) -> LayerFigures | None:
    """Return sensitivities, and the costs of the suggested policy; None where no basis is kept, or the sweep is not trusted here."""
    try:
        require_trust(sweep, trust=False)
        experiment = loads(sweep.experiment, f"experiment of sweep {sweep.name}")
        basis, pick = kept(experiment, sweep.fingerprints, earlier=True), suggested(sweep, front_members(sweep))
        if basis is None or pick is None:
            return None
        plan = plan_of(basis, experiment, [info.name for info in sweep.infos])
    except InputError:
        return None
    choices = tuple(len(dimension.choices) for dimension in plan.space.dimensions)
    if len(pick.values) < len(choices) or tuple(map(len, basis.rises[: len(choices)])) != choices:
        return None  # earlier code made other choices of the same experiment
    return LayerFigures(tuple(plan.space.base), _rises(plan, basis), pick.policy.id, _costs(plan, pick.values))


def _costs(plan: Plan, values: tuple[int, ...]) -> dict[str, tuple[float, ...]]:
    chosen = plan.space.layer_index(np.array([values]))[0]
    table = plan.table
    metrics = [metric for metric in COSTS if metric in table.metrics and metric not in table.peak]
    costs = table.by_layer(chosen)
    return {metric: tuple(map(float, costs[metric])) for metric in metrics}


def _rises(plan: Plan, basis: Basis) -> dict[str, dict[str, dict[str, float]]]:
    rises: dict[str, dict[str, dict[str, float]]] = {}
    for dimension, row in zip(plan.space.dimensions, basis.rises, strict=False):  # behind them may stand that of the transforms
        for layer in dimension.layers:
            of_slot = rises.setdefault(dimension.slot, {})
            of_slot[layer] = {str(choice): float(rise) for choice, rise in zip(dimension.choices, row, strict=True)}
    return rises
