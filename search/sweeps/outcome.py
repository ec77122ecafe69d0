"""How a run of a sweep ended: its record, and where the time went."""

from dataclasses import dataclass

from quant_core.util.cache import CacheCounts
from search.records.record import SweepRecord


@dataclass(frozen=True)
class Timings:
    """Where the time of a run went, in seconds, and what the caches saved.

    Attributes:
        total_s: wall time of the whole run.
        loop_s: wall time from the first trial to the last.
        evaluation_s: evaluating, summed over all workers.
        search_s: the searcher's proposing and learning.
        tracking_s: the driver's waiting for the record.
        test_s: the final front on the test split, and the report.
        workers: how many there were.
        retried: attempts that were made again.
        statistics_bytes: calibration statistics held in this process.
        sensitivity_evaluations: forward passes for sensitivities.
        weights, ranges: hits and misses over all processes: quantized weights, and ranges of activations.
        calibration_passes: passes over the calibration batches in this process.
    """

    total_s: float
    loop_s: float
    evaluation_s: float
    search_s: float
    tracking_s: float
    test_s: float
    workers: int
    retried: int
    statistics_bytes: int
    sensitivity_evaluations: int
    weights: CacheCounts
    ranges: CacheCounts
    calibration_passes: int = 0

    @property
    def idle_s(self) -> float:
        """What is left of the loop when evaluation, shared evenly by the workers, the search and the record are taken off."""
        return max(0.0, self.loop_s - self.search_s - self.tracking_s - self.evaluation_s / self.workers)


@dataclass(frozen=True, eq=False)
class SweepOutcome:
    """A sweep that came to its end, or to a stop.

    Attributes:
        record: everything, trials included.
        timings: where the time went.
        complete: MLflow has every record (otherwise the rest waits in the spool).
    """

    record: SweepRecord
    timings: Timings
    complete: bool
