"""`Sweep`: the state machine between a searcher and whoever evaluates.

Backends drive it: `next()` gives an evaluation to run, `finish()` takes its result.

It owns the searcher, the memo, the front and the order of events; it starts no processes and touches no tensors.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from quant_core.spec.policy import Policy
from quant_core.util.errors import BitfrontError
from search.problem.pareto import Archive
from search.problem.problem import Problem, Searcher, Trial
from search.records.record import TrialRecord
from search.records.result import Result, finite_or_failed
from search.sweeps.promotion import ORIGIN, Promotion, nearest_trained, select_promotions
from spaces.space import Space

BASELINE = "baseline"


class Recorder(Protocol):
    """What a sweep tells of itself as it goes: the tracker, or a test's list."""

    def record(self, trial: TrialRecord) -> None:
        """Keep one ended trial."""

    def update_front(self, numbers: Sequence[int], knee: int, hypervolume: float) -> None:
        """Keep the front as it now is."""


@dataclass(frozen=True)
class Evaluation:
    """A trial that was asked for and not yet told: one policy to evaluate.

    Attributes:
        number: of its trial.
        trial: the searcher's proposal.
        origin: "baseline", "ladder" or the searcher's name.
        policy: to evaluate.
        fidelity: "ptq", "adaround", "reconstruct" or "qat".
        ask_index: position of the ask in the sweep's sequence of asks and tells.
        after: numbers of the trials whose training goes before its own, one after the other; empty: it starts from the float weights.
        after_policies: the policies of those trials.
    """

    number: int
    trial: Trial
    origin: str
    policy: Policy
    fidelity: str
    ask_index: int
    after: tuple[int, ...] = ()
    after_policies: tuple[Policy, ...] = ()

    @property
    def schedulable(self) -> bool:
        """True where a scheduler may end it early: baselines and promoted points run to their end."""
        return self.origin not in (ORIGIN, BASELINE)

    @property
    def key(self) -> tuple[Policy, str]:
        """Policy and fidelity: what decides the result."""
        return self.policy, self.fidelity


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
        fidelity: of every trial of the search.
        ladder: fidelities to which the points nearest to the front are promoted when the search is over, one rung after the other.
        top_k: how many points are promoted to each rung; these trials come on top of `trials`.
        keeps: tells whether figures keep the limits on metrics; the front holds only such trials.
        warm: training starts from the weights of the nearest policy that is trained already.
        retried: attempts that were made again after a worker died, hung or failed.
        busy: workers that are evaluating now; set by whoever evaluates.
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
    fidelity: str = "ptq"
    ladder: tuple[str, ...] = ()
    top_k: int = 8
    warm: bool = False
    keeps: Callable[[Mapping[str, float]], bool] = lambda _figures: True
    asked: int = 0
    told: int = 0
    failed: int = 0
    stopped: int = 0
    repeated: int = 0
    retried: int = 0
    busy: int = 0
    search_s: float = 0.0
    archive: Archive = field(init=False)
    records: dict[int, TrialRecord] = field(default_factory=dict)
    _event: int = 0
    _exhausted: bool = False
    _open: dict[int, Evaluation] = field(default_factory=dict)
    _redo: deque[int] = field(default_factory=deque)
    _memo: dict[tuple[Policy, str], int] = field(default_factory=dict)
    _waiting: dict[tuple[Policy, str], list[int]] = field(default_factory=dict)
    _rungs: deque[str] = field(init=False)
    _promotions: deque[Promotion] = field(default_factory=deque)
    _searched: int = 0

    def __post_init__(self) -> None:
        self.archive = Archive(self.reference)
        self._rungs = deque(self.ladder)

    @property
    def done(self) -> bool:
        """True when every trial has ended, or the searcher has nothing left to propose, and every promotion has ended."""
        return not self._open and self._search_over and not self._rungs and not self._promotions

    @property
    def planned(self) -> int:
        """How many trials there will be, as far as is known: `trials`, and those of the rungs that were begun."""
        return (self.asked if self._search_over else self.trials) + len(self._promotions)

    @property
    def _search_over(self) -> bool:
        return self._searched >= self.trials or self._exhausted

    @property
    def open_trials(self) -> int:
        """Trials that were handed out, or wait for one that was."""
        return len(self._open)

    def next(self) -> Evaluation | None:
        """Return the next policy to evaluate, or None when there is none until something finishes (or at all: see `done`).

        A policy that was evaluated before is answered from the memo and recorded as repeated; one that is being evaluated waits for it.
        """
        while self._redo:
            number = self._redo.popleft()
            evaluation = self._start(number)
            if evaluation:
                return evaluation
        while (opened := self._ask()) is not None:
            evaluation = self._start(opened)
            if evaluation:
                return evaluation
        return None

    def finish(self, number: int, result: Result) -> None:
        """Take the result of an evaluation; its cost is attached here. Also ends the trials that waited for the same policy."""
        evaluation = self._open[number]
        key, result = evaluation.key, finite_or_failed(replace(result, cost=self.problem.costs_of(evaluation.trial.values)))
        self._tell(number, result)
        if not result.failed:
            self._memo[key] = number
        for follower in self._waiting.pop(key, []):
            if result.status == "stopped" and not self._open[follower].schedulable:
                self._redo.append(follower)
            else:
                self._tell(follower, result, repeats=number)

    def replay(self, records: Sequence[TrialRecord]) -> None:
        """Bring a fresh sweep to where a recorded one stopped, by repeating its sequence of asks and tells.

        A position that no record names was an ask whose trial had not ended: it is asked again and its policy handed out anew.

        Raises:
            BitfrontError: the searcher proposes something else than what is recorded.
        """
        tells = {record.tell_index: record for record in records}
        for event in range(max(tells, default=-1) + 1):
            if event in tells:
                record = tells[event]
                self._check(record)
                key = self._open[record.number].key
                self._tell(record.number, record.result, record.repeated, old=record)
                if not record.result.failed and record.repeated < 0:
                    self._memo[key] = record.number
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
        """Open the next trial; return its number, or None when there is nothing to propose, or not yet."""
        return self._ask_ladder() if self._search_over else self._ask_searcher()

    def _ask_searcher(self) -> int | None:
        baselines = self.problem.baselines
        if self.asked < len(baselines):
            trial, origin = Trial(-1, tuple(baselines[self.asked])), BASELINE
        else:
            start = time.perf_counter()
            proposal = self.searcher.ask()
            self.search_s += time.perf_counter() - start
            if proposal is None:
                self._exhausted = not self._open
                return self._ask_ladder() if self._exhausted else None
            trial, origin = proposal, self.searcher_name
        self._searched += 1
        return self._opened(trial, origin, self.space.policy(trial.values), self.fidelity)

    def _ask_ladder(self) -> int | None:
        """Open the next trial of the ladder; a rung begins when everything before it has ended."""
        while not self._promotions and self._rungs and not self._open:
            candidates = [
                record for record in self._in_order() if record.result.ok and record.repeated < 0 and self.problem.feasible(record.values)
            ]
            self._promotions.extend(select_promotions(candidates, self.objectives, self.reference, self._rungs.popleft(), self.top_k))
        if not self._promotions:
            return None
        promotion = self._promotions.popleft()
        return self._opened(Trial(-1, promotion.values), ORIGIN, promotion.policy, promotion.fidelity)

    def _in_order(self) -> list[TrialRecord]:
        return [self.records[number] for number in sorted(self.records)]

    def _opened(self, trial: Trial, origin: str, policy: Policy, fidelity: str) -> int:
        number, self.asked = self.asked, self.asked + 1
        after = nearest_trained(self._in_order(), trial.values) if self.warm and fidelity == "qat" and origin != BASELINE else ()
        policies = tuple(self.records[other].policy for other in after)
        self._open[number] = Evaluation(number, trial, origin, policy, fidelity, self._event, after, policies)
        self._event += 1
        return number

    def _start(self, number: int) -> Evaluation | None:
        """Return an open trial to be evaluated, or None where its policy was evaluated before or is under way."""
        evaluation = self._open[number]
        leader = self._memo.get(evaluation.key)
        if leader is not None and (self.records[leader].result.ok or evaluation.schedulable):
            self._tell(number, self.records[leader].result, repeats=leader)
            return None
        if evaluation.key in self._waiting:
            self._waiting[evaluation.key].append(number)
            return None
        self._waiting[evaluation.key] = []
        return evaluation

    def _tell(self, number: int, result: Result, repeats: int = -1, old: TrialRecord | None = None) -> None:
        """End an open trial: learn from it, keep it, move the front."""
        opened = self._open.pop(number)
        record = old or TrialRecord(
            number, opened.origin, opened.trial.values, opened.policy, result, opened.ask_index, self._event, repeats, after=opened.after
        )
        self._event += 1
        self.records[number] = record
        self.told += 1
        self.failed += result.failed
        self.stopped += result.status == "stopped"
        self.repeated += repeats >= 0
        objectives = self._objectives(result)
        if opened.origin != ORIGIN:
            start = time.perf_counter()
            self.searcher.tell(opened.trial, objectives)
            self.search_s += time.perf_counter() - start
        if old is None:
            self.recorder.record(record)
        within = result.ok and objectives is not None and self.problem.feasible(opened.trial.values) and self.keeps(result.figures)
        if objectives is not None and within and self.archive.add(number, objectives):
            self.recorder.update_front(self.archive.numbers, self.archive.knee, self.archive.hypervolume)

    def _objectives(self, result: Result) -> tuple[float, ...] | None:
        """Return the objectives for the searcher: of a trial that lost a race its estimate; None of one that failed or has none."""
        figures = result.figures if result.ok else {**result.cost, **result.estimate} if result.estimate else {}
        point = tuple(figures[name] for name in self.objectives) if figures else ()
        return point if point and all(map(math.isfinite, point)) else None
