"""`Outcome`: a result on its way from a worker to the driver, as one string that Ray Tune leaves alone."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from quant_core.util.cache import CacheCounts
from search.records.result import Result


@dataclass(frozen=True)
class Outcome:
    """What a worker found out about a policy.

    Attributes:
        metrics, seconds, status, reason, epochs, fidelity: as in `Result`.
        worker: which process evaluated it.
        weights, ranges: what the caches of that process did for it.
    """

    metrics: Mapping[str, float]
    seconds: float
    status: str
    reason: str
    epochs: tuple[Mapping[str, float], ...]
    fidelity: str
    worker: str
    weights: CacheCounts
    ranges: CacheCounts

    @classmethod
    def of(cls, result: Result, worker: str, weights: CacheCounts, ranges: CacheCounts) -> "Outcome":
        """Return a result without what the driver knows already."""
        known = (result.metrics, result.seconds, result.status, result.reason, result.epochs, result.fidelity)
        return cls(*known, worker, weights, ranges)

    def result(self, policy_id: str, cost: Mapping[str, float]) -> Result:
        """Return the whole result."""
        return Result(policy_id, self.metrics, cost, self.seconds, self.status, self.reason, self.epochs, self.fidelity)

    def dumps(self) -> str:
        """Return it as JSON; floats come back exactly."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> "Outcome":
        """Read what `dumps` wrote."""
        data = json.loads(text)
        counts = {name: CacheCounts(**data[name]) for name in ("weights", "ranges")}
        return cls(**{**data, "epochs": tuple(data["epochs"]), **counts})
