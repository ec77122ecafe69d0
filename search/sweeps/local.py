"""The local backend: one trial after the other in this process."""

from search.config.schedulers import RACE
from search.sweeps.backend import BackendContext
from search.sweeps.race import Race
from search.sweeps.sweep import Sweep


def run(sweep: Sweep, context: BackendContext) -> None:
    """Drive `sweep` to its end, or until `context.stopping()` is true after a trial."""
    section = context.experiment.run
    race = Race(sweep, context.evaluator, **section.scheduler_options) if section.scheduler == RACE else None
    while not context.stopping():
        evaluation = sweep.next()
        if evaluation is None:
            break
        sweep.busy = 1
        result = race(evaluation) if race else context.evaluator(evaluation.policy, evaluation.fidelity, evaluation.after_policies)
        sweep.finish(evaluation.number, result)
        context.changed()
    sweep.busy = 0
