"""The local backend: one trial after the other in this process."""

from search.sweeps.backend import Work
from search.sweeps.sweep import Sweep


def run(sweep: Sweep, work: Work) -> None:
    """Drive `sweep` to its end, or until `work.stopping()` is true after a trial."""
    while not work.stopping():
        job = sweep.next()
        if job is None:
            break
        sweep.busy = 1
        sweep.finish(job.number, work.evaluate(job.policy, job.cost, job.fidelity, job.after))
        work.changed()
    sweep.busy = 0
