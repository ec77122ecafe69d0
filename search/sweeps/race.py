"""The scheduler `race`: evaluations run against the best policy that costs no more, and stop where they are surely worse."""

import logging
from collections.abc import Mapping
from dataclasses import replace

from search.evaluation.racing import Course, Incumbent, UnfitError, Watch, check
from search.records.result import Result
from search.sweeps.backend import WatchedEvaluator
from search.sweeps.sweep import Evaluation, Sweep

log = logging.getLogger("bitfront.sweep")
CONFIDENCE = 0.95
AGAIN = ("ptq", "adaround")
"""Fidelities at which an incumbent is measured again, where a resumed sweep has lost what it did on single examples."""


class Race:
    """Evaluates the trials of one sweep. It keeps what the members of the front did on every example: eight bytes each.

    The incumbent of a trial is the member of the front with the least error (or loss) among those that cost no more by any objective.
    A trial without one, a uniform policy and a promoted one run to their end.

    Args:
        sweep: whose trials they are.
        evaluator: of the network.
        confidence: that a stopped policy is worse than its incumbent, one-sided, over all looks.
    """

    def __init__(self, sweep: Sweep, evaluator: WatchedEvaluator, confidence: float = CONFIDENCE) -> None:
        self._sweep, self._evaluator, self._confidence = sweep, evaluator, confidence
        self._objective, *self._costs = sweep.objectives
        self._courses: dict[int, Course] = {}
        self._tried: set[int] = set()
        self._runs = True

    def __call__(self, evaluation: Evaluation) -> Result:
        """Return the result of one evaluation, stopped where it lost."""
        policy, fidelity, after = evaluation.policy, evaluation.fidelity, evaluation.after_policies
        again = 0
        try:
            if self._runs:
                incumbent, again = self._incumbent(evaluation) if evaluation.schedulable else (None, 0)
                watch = self._watch(incumbent)
                result = self._evaluator(policy, fidelity, after, watch)
                self._keep(evaluation.number, watch, result)
                return replace(result, examples=result.examples + again)
        except UnfitError as error:
            self._give_up(error)
        result = self._evaluator(policy, fidelity, after)
        return replace(result, examples=result.examples + again)

    def _give_up(self, error: UnfitError) -> None:
        self._runs = False
        self._courses.clear()
        log.warning("%s, so no trial can lose a race: all run to their end.", error)

    def _watch(self, incumbent: Incumbent | None = None) -> Watch:
        return self._evaluator.watch(self._objective, incumbent, self._confidence)

    def _keep(self, number: int, watch: Watch, result: Result) -> None:
        """Keep the course of a policy that went to the end, and no longer those of policies that have left the front."""
        self._courses = {member: course for member, course in self._courses.items() if member in self._sweep.archive.numbers}
        if result.ok:
            try:
                check(watch, result.metrics)
                self._courses[number] = watch.course
            except UnfitError as error:
                self._give_up(error)

    def _incumbent(self, evaluation: Evaluation) -> tuple[Incumbent | None, int]:
        """Return the incumbent of a trial, and the examples on which it was measured again."""
        costs = self._sweep.problem.costs_of(evaluation.trial.values)
        rivals = {number: self._sweep.records[number].result for number in self._sweep.archive.numbers}
        cheap = {number: result.figures for number, result in rivals.items() if self._costs_no_more(result.figures, costs)}
        if not cheap:
            return None, 0
        number = min(cheap, key=lambda member: cheap[member][self._objective])
        again = 0 if number in self._courses else self._measured_again(number)
        if number not in self._courses:
            return None, again
        return Incumbent(number, cheap[number][self._objective], self._courses[number]), again

    def _costs_no_more(self, figures: Mapping[str, float], costs: Mapping[str, float]) -> bool:
        return all(figures[name] <= costs[name] for name in self._costs)

    def _measured_again(self, number: int) -> int:
        """Follow a member of the front over the examples once more; return how many."""
        record = self._sweep.records[number]
        if record.result.fidelity not in AGAIN or number in self._tried:
            return 0
        self._tried.add(number)
        watch = self._watch()
        result = self._evaluator(record.policy, record.result.fidelity, (), watch)
        self._keep(number, watch, result)
        return result.examples
