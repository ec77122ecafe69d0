"""`Outcome`: a result on its way from a worker to the driver, as one string that Ray Tune leaves alone."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from search.result import Result


@dataclass(frozen=True)
class Outcome:
    """What a worker found out about a policy.

    Attributes:
        metrics, seconds, status, reason, epochs, fidelity: as in `Result`.
        worker: which process evaluated it.
    """

    metrics: Mapping[str, float]
    seconds: float
    status: str
    reason: str
    epochs: tuple[Mapping[str, float], ...]
    fidelity: str
    worker: str

    @classmethod
    def of(cls, result: Result, worker: str) -> "Outcome":
        """Return a result without what the driver knows already."""
        return cls(result.metrics, result.seconds, result.status, result.reason, result.epochs, result.fidelity, worker)

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
        return cls(**{**data, "epochs": tuple(data["epochs"])})
