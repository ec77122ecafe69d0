"""The end of a sweep: the members of the final front are evaluated once on the test split."""

from dataclasses import replace

from search.evaluation.evaluator import Evaluator
from search.sweeps.memory import RunRecord
from search.sweeps.phases import Report, silent
from search.sweeps.sweep import Sweep


def evaluate_front_on_test(evaluator: Evaluator, sweep: Sweep, tracker: RunRecord, report: Report = silent) -> None:
    """Measure the float network and every member of the front on the test split, once, and record it."""
    if not {"accuracy_test", "error_test"} & set(tracker.sweep.baseline):
        tested = {f"{name}_test": value for name, value in evaluator.float_metrics("test").items()}
        tracker.describe(replace(tracker.sweep, baseline={**tracker.sweep.baseline, **tested}))
    members = sweep.archive.numbers
    for position, number in enumerate(members):
        report("test split", position, len(members))
        record = sweep.records[number]
        if not record.test:
            after = [sweep.records[other].policy for other in record.after]
            sweep.records[number] = replace(record, test=evaluator.metrics(record.policy, "test", record.result.fidelity, after))
            tracker.record(sweep.records[number])
    report("test split", len(members), len(members))
