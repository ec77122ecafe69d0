"""The local backend: one trial after the other in this process."""

from search.sweeps.backend import BackendContext
from search.sweeps.sweep import Sweep


def run(sweep: Sweep, context: BackendContext) -> None:
    """Drive `sweep` to its end, or until `context.stopping()` is true after a trial."""
    while not context.stopping():
        evaluation = sweep.next()
        if evaluation is None:
            break
        sweep.busy = 1
        sweep.finish(evaluation.number, context.evaluator(evaluation.policy, evaluation.fidelity, evaluation.after_policies))
        context.changed()
    sweep.busy = 0
