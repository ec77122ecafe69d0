"""`Sweep`: the state machine between a searcher and whoever evaluates. Backends drive it: `next()` gives jobs, `finish()` takes results.

It owns the searcher, the memo, the front and the order of events; it starts no processes and touches no tensors.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from quant_core.errors import BitfrontError
from quant_core.policy import Policy
from search.pareto import Archive
from search.problem import Problem, Searcher, Trial
from search.record import TrialRecord
from search.result import Result
from spaces.space import Space


class Recorder(Protocol):
    """What a sweep tells of itself as it goes: the tracker, or a test's list."""

    def record(self, trial: TrialRecord) -> None:
        """Keep one ended trial."""

    def update_front(self, numbers: Sequence[int], knee: int, hypervolume: float) -> None:
        """Keep the front as it now is."""


@dataclass(frozen=True)
class Job:
    """A policy to evaluate, and its known cost."""

    number: int
    policy: Policy
    cost: Mapping[str, float]


@dataclass
class _Open:
    """A trial that was asked for and not yet told."""

    trial: Trial
    origin: str
    policy: Policy
    asked: int


@dataclass
class Sweep:
    """One sweep in progress.

    Attributes:
        space, problem: what is searched.
        searcher: proposes after the baselines.
        searcher_name: written to the record as the origin of its proposals.
        trials: how many trials to run, baselines and repeats included.
        objectives: names of what is minimized, as results hold them.
        reference: reference point of the hypervolume, in the order of `objectives`.
        recorder: keeps what happens.
        retried: attempts that were made again after a worker died, hung or failed.
        busy: workers that are evaluating now; kept by whoever evaluates.
        search_s: seconds that the searcher took to propose and learn.
    """

    space: Space
    problem: Problem
    searcher: Searcher
    searcher_name: str
    trials: int
    objectives: tuple[str, ...]
    reference: tuple[float, ...]
    recorder: Recorder
    asked: int = 0
    told: int = 0
    failed: int = 0
    repeated: int = 0
    retried: int = 0
    busy: int = 0
    search_s: float = 0.0
    archive: Archive = field(init=False)
    records: dict[int, TrialRecord] = field(default_factory=dict)
    _event: int = 0
    _exhausted: bool = False
    _open: dict[int, _Open] = field(default_factory=dict)
    _redo: deque[int] = field(default_factory=deque)
    _memo: dict[Policy, int] = field(default_factory=dict)
    _waiting: dict[Policy, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.archive = Archive(self.reference)

    @property
    def done(self) -> bool:
        """True when every trial has ended, or the searcher has nothing left to propose."""
        return not self._open and (self.asked >= self.trials or self._exhausted)

    @property
    def open_trials(self) -> int:
        """Trials that were handed out, or wait for one that was."""
        return len(self._open)

    def next(self) -> Job | None:
        """Return the next policy to evaluate, or None when there is none until something finishes (or at all: see `done`).

        A policy that was evaluated before is answered from the memo and recorded as repeated; one that is being evaluated waits for it.
        """
        while self._redo:
            number = self._redo.popleft()
            job = self._start(number)
            if job:
                return job
        while self.asked < self.trials:
            opened = self._ask()
            if opened is None:
                return None
            job = self._start(opened)
            if job:
                return job
        return None

    def finish(self, number: int, result: Result) -> None:
        """Take the result of a job; also ends the trials that waited for the same policy."""
        policy = self._open[number].policy
        self._tell(number, result)
        if result.ok:
            self._memo[policy] = number
        for follower in self._waiting.pop(policy, []):
            self._tell(follower, result, repeats=number)

    def replay(self, records: Sequence[TrialRecord]) -> None:
        """Bring a fresh sweep to where a recorded one stopped, by repeating its sequence of asks and tells.

        A position that no record names was an ask whose trial had not ended: it is asked again and its policy handed out anew.

        Raises:
            BitfrontError: the searcher proposes something else than what is recorded.
        """
        tells = {record.told: record for record in records}
        for event in range(max(tells, default=-1) + 1):
            if event in tells:
                record = tells[event]
                self._check(record)
                self._tell(record.number, record.result, record.repeated, old=record)
                if record.result.ok and record.repeated < 0:
                    self._memo[record.policy] = record.number
            else:
                self._ask()
        self._redo.extend(sorted(self._open))

    def _check(self, record: TrialRecord) -> None:
        opened = self._open.get(record.number)
        if opened is None or opened.trial.values != record.values:
            proposed = opened.trial.values if opened else "nothing"
            raise BitfrontError(
                f"trial {record.number}: {self.searcher_name!r} now proposes {proposed} where {record.values} is recorded. "
                f"The searcher, its version or its options changed; start a new sweep."
            )

    def _ask(self) -> int | None:
        """Open the next trial; return its number, or None when there is nothing to propose."""
        baselines = self.problem.baselines
        if self.asked < len(baselines):
            trial, origin = Trial(-1, tuple(baselines[self.asked])), "baseline"
        else:
            start = time.perf_counter()
            proposal = self.searcher.ask()
            self.search_s += time.perf_counter() - start
            if proposal is None:
                self._exhausted = not self._open
                return None
            trial, origin = proposal, self.searcher_name
        number, self.asked = self.asked, self.asked + 1
        self._open[number] = _Open(trial, origin, self.space.policy(trial.values), self._event)
        self._event += 1
        return number

    def _start(self, number: int) -> Job | None:
        """Turn an open trial into a job, unless its policy is known or under way."""
        policy = self._open[number].policy
        if policy in self._memo:
            leader = self._memo[policy]
            self._tell(number, self.records[leader].result, repeats=leader)
            return None
        if policy in self._waiting:
            self._waiting[policy].append(number)
            return None
        self._waiting[policy] = []
        return Job(number, policy, self.problem.costs_of(self._open[number].trial.values))

    def _tell(self, number: int, result: Result, repeats: int = -1, old: TrialRecord | None = None) -> None:
        """End an open trial: learn from it, keep it, move the front."""
        opened = self._open.pop(number)
        record = old or TrialRecord(number, opened.origin, opened.trial.values, opened.policy, result, opened.asked, self._event, repeats)
        self._event += 1
        self.records[number] = record
        self.told += 1
        self.failed += not result.ok
        self.repeated += repeats >= 0
        objectives = self._objectives(result)
        start = time.perf_counter()
        self.searcher.tell(opened.trial, objectives)
        self.search_s += time.perf_counter() - start
        if old is None:
            self.recorder.record(record)
        if objectives is not None and self.problem.feasible(opened.trial.values) and self.archive.add(number, objectives):
            self.recorder.update_front(self.archive.numbers, self.archive.knee, self.archive.hypervolume)

    def _objectives(self, result: Result) -> tuple[float, ...] | None:
        known = {**result.cost, **result.metrics}
        return tuple(known[name] for name in self.objectives) if result.ok else None
