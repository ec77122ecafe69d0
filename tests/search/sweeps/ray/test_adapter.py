"""What the sweep is told of a trial that Tune gave up."""

from types import SimpleNamespace
from typing import Any

import pytest

from quant_core.spec.policy import LayerPolicy, Policy
from quant_core.util.cache import CacheCounts
from search.records.result import Result
from search.sweeps.ray.adapter import GiveUp, SweepSearcher
from search.sweeps.ray.worker_report import WorkerReport

pytestmark = pytest.mark.ray
CANCELLED = """ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.
\tclass_name: PolicyTrial
\tactor_id: 2f9f
The actor is dead because its owner has died.
The actor never ran - it was cancelled before it started running.
"""


def searching(results: list[Result], max_retries: int = 0) -> SweepSearcher:
    """Return a searcher of one evaluation after the other."""
    policy, point = Policy({"fc": LayerPolicy()}), SimpleNamespace(values=())
    evaluation = SimpleNamespace(number=0, policy=policy, fidelity="ptq", schedulable=False, after_policies=(), trial=point)
    sweep: Any = SimpleNamespace(
        next=lambda: evaluation,
        finish=lambda _number, result: results.append(result),
        problem=SimpleNamespace(costs_of=lambda _values: {}),
        retried=0,
        busy=0,
    )
    run = SimpleNamespace(trial_timeout_s=0.0, max_retries=max_retries)
    context: Any = SimpleNamespace(
        stopping=lambda: False, changed=lambda: None, experiment=SimpleNamespace(run=run), weights=CacheCounts(), ranges=CacheCounts()
    )
    return SweepSearcher(sweep, context)


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
    searcher = searching(results)
    searcher.suggest("a")
    searcher.died("a", error)
    assert [result.reason for result in results] == [reason]


SETUP = """ray.exceptions.ActorDiedError: The actor died because of an error raised in its creation task, ray::PolicyTrial.__init__()
ModuleNotFoundError: No module named 'inner'

The above exception was the direct cause of the following exception:
search.sweeps.ray.shipping.WorkerError: a worker on n1 cannot import what the task needs: No module named 'inner'. Install it there.
"""
UNLOADED = "RuntimeError: The actor with name PolicyTrial failed to import on the worker. This may be because needed libraries are absent."


@pytest.mark.parametrize(
    ("error", "said"),
    [(SETUP, "a worker on n1 cannot import what the task needs: No module named 'inner'. Install it there."), (UNLOADED, "bitfront, as")],
)
def test_a_worker_that_can_evaluate_nothing_ends_the_sweep_without_a_retry(error: str, said: str) -> None:
    results: list[Result] = []
    searcher = searching(results, max_retries=3)
    searcher.suggest("a")
    assert not GiveUp(searcher).stop_all()
    searcher.died("a", error)
    assert said in searcher.fault
    assert GiveUp(searcher).stop_all()
    assert searcher.suggest("b") == searcher.FINISHED
    assert not results, "the trial stays open: a resume runs it"


@pytest.mark.parametrize(("kind", "stops"), [("FileNotFoundError", True), ("ModuleNotFoundError", True), ("RuntimeError", False)])
def test_an_evaluation_that_misses_a_file_is_no_trials_fault(kind: str, stops: bool) -> None:
    results: list[Result] = []
    searcher = searching(results)
    searcher.suggest("a")
    failed = Result("0", {}, {}, 0.1, "failed", f"{kind}: 'images/7.png' is not there")
    searcher.on_trial_complete("a", {"report": WorkerReport(failed, "n1:77", CacheCounts(), CacheCounts()).dumps()})
    assert bool(searcher.fault) == stops
    assert len(results) == (not stops)
    assert not stops or "a worker on n1 cannot" in searcher.fault
