"""The local backend: one trial after the other in this process."""

from collections.abc import Callable, Mapping

from quant_core.policy import Policy
from search.result import Result
from search.sweep import Sweep


def run(
    sweep: Sweep,
    evaluate: Callable[[Policy, Mapping[str, float]], Result],
    ended: Callable[[], None],
    stopping: Callable[[], bool],
) -> None:
    """Drive `sweep` to its end, or until `stopping()` is true after a trial.

    Args:
        sweep: gives jobs and takes results.
        evaluate: (policy, cost) -> result; never raises.
        ended: called after every trial (progress).
        stopping: asked before every trial.
    """
    while not stopping():
        job = sweep.next()
        if job is None:
            return
        sweep.finish(job.number, evaluate(job.policy, job.cost))
        ended()
