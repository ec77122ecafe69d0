"""The ladder: when the search is over, points near the front are promoted: AdaRound, block reconstruction, training; costs stay."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.spec.quant_spec import QuantSpec, SpecError
from search.problem.pareto import FloatArray, non_dominated, relative_hypervolume
from search.problem.problem import Values
from search.records.record import TrialRecord

ORIGIN = "ladder"
MAX_TRAININGS_BEFORE = 2
"""How many trainings may go before one."""


@dataclass(frozen=True)
class Promotion:
    """A point of the space that is to be evaluated again, as `policy` at `fidelity`."""

    values: Values
    policy: Policy
    fidelity: str


def select_promotions(
    trials: Sequence[TrialRecord], objectives: Sequence[str], reference: Sequence[float], rung: str, top_k: int
) -> tuple[Promotion, ...]:
    """Return the points to promote to `rung`: up to `top_k`, those nearest to the front first.

    Every point stands with its best quality so far. Its distance is how far its quality would have to fall for the point to be on the
    front: the quality less the best one among the points that cost no more. Of equal distances (the front has 0) the point whose
    removal would cost the front more hypervolume comes first, then the one that was proposed first.

    Args:
        trials: that ended well within the limits; of each point the first is its policy as proposed.
        objectives: quality (error or loss) first, then costs; all minimized.
        reference: of the hypervolume, [m].
        rung: "adaround", "reconstruct" or "qat". A policy without a weight that it would change is not promoted.
        top_k: how many.
    """
    change = _CHANGES[rung]
    first: dict[Values, TrialRecord] = {}
    best: dict[Values, tuple[float, ...]] = {}
    for trial in trials:
        point = tuple(trial.result.figures[name] for name in objectives)
        first.setdefault(trial.values, trial)
        best[trial.values] = min(best.get(trial.values, point), point)
    promoted = {values: policy for values, trial in first.items() if (policy := change(trial.policy)) is not None}
    if not promoted:
        return ()
    candidates = list(promoted)
    ranked = _by_distance_to_front(np.array([best[values] for values in candidates]), reference)[:top_k]
    return tuple(Promotion(candidates[i], promoted[candidates[i]], rung) for i in ranked)


def _by_distance_to_front(points: FloatArray, reference: Sequence[float]) -> list[int]:
    """Return the rows of points [N, m] from the nearest to the front to the farthest."""
    distance = np.array([row[0] - points[(points[:, 1:] <= row[1:]).all(axis=1), 0].min() for row in points])
    members = np.flatnonzero(non_dominated(points))
    whole = relative_hypervolume(points[members], reference)
    share = np.zeros(len(points))
    for i in members:
        share[i] = whole - relative_hypervolume(points[members[members != i]], reference)
    on_front = np.isin(np.arange(len(points)), members)
    return [int(i) for i in np.lexsort((np.arange(len(points)), -share, ~on_front, distance))]


def nearest_trained(trials: Sequence[TrialRecord], values: Values) -> tuple[int, ...]:
    """Return the trials whose training goes before that of a point: those of the nearest trained one, and that one itself.

    Near is few steps from choice to choice, summed over the dimensions; of equally near ones the first. Only trials that have gone through
    fewer than `MAX_TRAININGS_BEFORE` trainings count, so that no chain grows with the sweep.
    """
    trained = [
        trial
        for trial in trials
        if trial.result.ok and trial.result.fidelity == "qat" and trial.repeated < 0 and len(trial.after) < MAX_TRAININGS_BEFORE
    ]
    if not trained:
        return ()
    nearest = min(trained, key=lambda trial: (sum(abs(a - b) for a, b in zip(trial.values, values, strict=True)), trial.number))
    return (*nearest.after, nearest.number)


def adarounded(policy: Policy) -> Policy | None:
    """Return the policy with AdaRound for every weight whose format can be rounded up or down; None where that changes nothing."""
    rounded = policy.with_layers({name: LayerPolicy(_adaround(layer.weight), layer.activation) for name, layer in policy.items()})
    return rounded if rounded != policy else None


def _adaround(spec: QuantSpec) -> QuantSpec:
    try:
        return replace(spec, rounding="adaround")
    except SpecError:
        return spec


def _learned(policy: Policy) -> Policy | None:
    """Return the policy itself, which reconstruction and training leave as it is; None where it has nothing to learn."""
    return policy if any(not layer.weight.is_float for layer in policy.values()) else None


_CHANGES: Mapping[str, Callable[[Policy], Policy | None]] = {"adaround": adarounded, "reconstruct": _learned, "qat": _learned}
