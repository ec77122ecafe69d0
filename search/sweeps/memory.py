"""What a run asks of a sweep's record, and the record that lives in this process alone: nothing is written, mlflow is never imported."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from search.records.record import SweepRecord, TrialRecord


class RunRecord(Protocol):
    """The record of a sweep, as a run uses it: the tracker, or memory.

    Attributes:
        sweep: the header; on a resumed sweep with the trials that were recorded before.
        blocked_s: seconds that callers have waited for it.
    """

    sweep: SweepRecord
    blocked_s: float

    def record(self, trial: TrialRecord) -> None:
        """Keep one ended trial."""

    def update_front(self, numbers: Sequence[int], knee: int, hypervolume: float) -> None:
        """Keep the front as it now is."""

    def describe(self, sweep: SweepRecord) -> None:
        """Replace the header."""

    def finish(self, status: str) -> bool:
        """Set the status and let go; tell whether everything is kept."""


class MemoryRecord:
    """Keeps the header only: the trials are in the `Sweep`, and in the outcome of the run."""

    def __init__(self, sweep: SweepRecord) -> None:
        self.sweep, self.blocked_s = sweep, 0.0

    def record(self, trial: TrialRecord) -> None:
        """Keep nothing."""

    def update_front(self, numbers: Sequence[int], knee: int, hypervolume: float) -> None:
        """Keep nothing."""

    def describe(self, sweep: SweepRecord) -> None:
        """Replace the header."""
        self.sweep = sweep

    def finish(self, status: str) -> bool:
        """Set the status."""
        self.sweep = replace(self.sweep, status=status)
        return True
