"""Ray Tune's schedulers on the fidelity axis: a part of the calibration split, the validation split, every epoch of training."""

from typing import Any

SCORE, RUNG = "score", "training_iteration"


def asha(rungs: int, *, grace: int = 1, reduction: float = 3.0) -> Any:
    """Return ASHA (Li et al., MLSys 2020): after `grace` rungs and every `reduction` times as many, the best 1/reduction go on."""
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(RUNG, metric=SCORE, mode="min", max_t=rungs, grace_period=min(grace, rungs), reduction_factor=reduction)


def hyperband(rungs: int, *, brackets: int = 2, reduction: float = 3.0) -> Any:
    """Return the asynchronous HyperBand: ASHA in brackets that begin to stop trials later and later.

    Tune's synchronous HyperBand pauses trials until a bracket is full, and stands still where fewer are left.
    """
    from ray.tune.schedulers import AsyncHyperBandScheduler

    return AsyncHyperBandScheduler(RUNG, metric=SCORE, mode="min", max_t=rungs, brackets=brackets, reduction_factor=reduction)
