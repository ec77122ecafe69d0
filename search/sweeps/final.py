"""The end of a sweep: the members of the final front are evaluated once on the test split."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from quant_core.spec.policy import Policy
from quant_core.util.errors import first_line
from search.evaluation.evaluator import Evaluator
from search.records.record import TrialRecord
from search.sweeps.interrupt import Timer
from search.sweeps.memory import RunRecord
from search.sweeps.phases import Report, silent
from search.sweeps.sweep import Sweep

log = logging.getLogger("bitfront.sweep")


def evaluate_front_on_test(
    evaluator: Evaluator, sweep: Sweep, tracker: RunRecord, report: Report = silent, timer: Timer | None = None
) -> bool:
    """Measure the float network and every member of the front on the test split, once, and record it; tell whether the time was enough.

    What fails for one member marks that one, and no other: it has no figures on the test split, and the reason. Once the timer is over
    no further network is measured; a resumed sweep goes on there.
    """
    if timer is not None and timer.over:
        return False
    if not {"accuracy_test", "error_test"} & set(tracker.sweep.baseline):
        try:
            tested = {f"{name}_test": value for name, value in evaluator.float_metrics("test").items()}
            counted = tested | evaluator.counts("test")
            tracker.describe(replace(tracker.sweep, baseline={**tracker.sweep.baseline, **counted}))
        except Exception as error:
            log.warning("%s. The front is kept; the float network has no figures on the test split.", first_line(error))
    members = sweep.archive.numbers
    for position, number in enumerate(members):
        report("test split", position, len(members))
        if timer is not None and timer.over:
            return False
        record = sweep.records[number]
        if not record.test:
            sweep.records[number] = _tested(evaluator, record, [sweep.records[other].policy for other in record.after])
            tracker.record(sweep.records[number])
    report("test split", len(members), len(members))
    return True


def _tested(evaluator: Evaluator, record: TrialRecord, after: Sequence[Policy]) -> TrialRecord:
    """Return the record of a member with its figures on the test split, or with the reason why it has none."""
    try:
        test = evaluator.metrics(record.policy, "test", record.result.fidelity, after)
        return replace(record, test=test, result=replace(record.result, reason=""))
    except Exception as error:  # a member that fails must not take the others' figures with it
        reason = f"test split: {first_line(error)}"
        log.warning("trial %d of the front, %s. It stays on the front without figures on the test split.", record.number, reason)
        return replace(record, result=replace(record.result, reason=reason))
