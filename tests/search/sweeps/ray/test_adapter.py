"""What the sweep is told of a trial that Tune gave up."""

from types import SimpleNamespace
from typing import Any

import pytest

from quant_core.spec.policy import LayerPolicy, Policy
from search.records.result import Result
from search.sweeps.ray.adapter import SweepSearcher

pytestmark = pytest.mark.ray
CANCELLED = """ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.
\tclass_name: PolicyTrial
\tactor_id: 2f9f
The actor is dead because its owner has died.
The actor never ran - it was cancelled before it started running.
"""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CANCELLED, "The actor is dead because its owner has died. The actor never ran - it was cancelled before it started running."),
        ("Traceback ...\nValueError: no such thing\n", "ValueError: no such thing"),
        ("", "the worker died"),
    ],
)
def test_the_reason_of_a_failed_trial_names_the_cause(error: str, reason: str) -> None:
    results: list[Result] = []
    policy, point = Policy({"fc": LayerPolicy()}), SimpleNamespace(values=())
    evaluation = SimpleNamespace(number=0, policy=policy, fidelity="ptq", schedulable=False, after_policies=(), trial=point)
    sweep: Any = SimpleNamespace(
        next=lambda: evaluation,
        finish=lambda _number, result: results.append(result),
        problem=SimpleNamespace(costs_of=lambda _values: {}),
        retried=0,
        busy=0,
    )
    run = SimpleNamespace(trial_timeout_s=0.0, max_retries=0)
    context: Any = SimpleNamespace(stopping=lambda: False, changed=lambda: None, experiment=SimpleNamespace(run=run))
    searcher = SweepSearcher(sweep, context)
    searcher.suggest("a")
    searcher.died("a", error)
    assert [result.reason for result in results] == [reason]
