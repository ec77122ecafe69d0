"""A result on its way from a worker to the driver: one string of JSON, which Ray Tune leaves alone."""

import json
from dataclasses import asdict, dataclass

from quant_core.util.cache import CacheCounts
from search.records.result import Result


@dataclass(frozen=True)
class WorkerReport:
    """A result, the process that it comes from, and what the caches of that process did for it."""

    result: Result
    worker: str
    weights: CacheCounts
    ranges: CacheCounts

    def dumps(self) -> str:
        """Return it as JSON; floats come back exactly."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> "WorkerReport":
        """Return the report that `dumps` made text of."""
        data = json.loads(text)
        result = Result(**{**data["result"], "epochs": tuple(data["result"]["epochs"])})
        return cls(result, data["worker"], CacheCounts(**data["weights"]), CacheCounts(**data["ranges"]))
