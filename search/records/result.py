"""`Result`: what evaluating one policy gives. Plain data: it crosses process borders and is stored as JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from quant_core.util.text import listed


@dataclass(frozen=True)
class Result:
    """The outcome of one policy.

    Attributes:
        policy_id: `Policy.id` of what was evaluated.
        metrics: measured on the validation split: `accuracy` in [0, 1], `error` = 1 - accuracy, `loss` (cross-entropy, nats).
        cost: from the device table: `latency_s`, `energy_j`, `weight_bytes`, ...; attached by the sweep when the trial ends.
        seconds: wall time of the evaluation.
        status: "ok", "stopped" (a scheduler ended it before its full fidelity: the figures are not those of the policy) or "failed".
        reason: why it failed or was stopped; empty when ok.
        epochs: figures after each epoch of training (`loss`, `accuracy`, `lr`, ...), or of each reconstructed block, in order; else empty.
        fidelity: how it was evaluated: "ptq", "adaround", "reconstruct" or "qat"; of a stopped trial how far it came: "qat, epoch 1 of 5".
        examples: of the validation split, that the evaluation ran through; 0: it failed, or was stopped before.
        estimate: of a trial that lost a race, the minimized figure that it is expected to have on all examples, by its name.
    """

    policy_id: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    status: str = "ok"
    reason: str = ""
    epochs: tuple[Mapping[str, float], ...] = ()
    fidelity: str = "ptq"
    examples: int = 0
    estimate: Mapping[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True where the figures are those of the policy: it neither failed nor was stopped."""
        return self.status == "ok"

    @property
    def failed(self) -> bool:
        """True where there are no figures."""
        return self.status == "failed"

    @property
    def figures(self) -> Mapping[str, float]:
        """Metrics and costs by name; an empty mapping where there are none."""
        return {**self.cost, **self.metrics}


def finite_or_failed(result: Result) -> Result:
    """Return the result, as failed where a metric is NaN or infinite: it could be no point of a front."""
    wrong = [f"{name} = {value}" for name, value in result.metrics.items() if not math.isfinite(value)]
    if not wrong or result.failed:
        return result
    return replace(result, metrics={}, status="failed", reason=f"figures that are not finite: {listed(wrong)}", epochs=())
