"""The agent of a recorded sweep: the record is replayed, as for a resume, and nothing is evaluated."""

from quant_core.util.errors import InputError
from search import tracking
from search.config.files import loads
from search.searchers.haq.saved import SavedAgent
from search.searchers.haq.searcher import HaqSearcher
from search.sweeps.beginning import searcher_of, sweep_of
from search.sweeps.context import SweepContext, reopened
from search.sweeps.memory import MemoryRecord
from search.sweeps.phases import LogMode, Phases

LEARNS = "haq"


def taught_agent(
    uri: str,
    ref: str,
    experiment_name: str | None = None,
    log: LogMode = "auto",
    *,
    context: SweepContext | None = None,
    trust: bool = False,
) -> SavedAgent:
    """Return the agent of a sweep by `haq` as its last trial left it.

    Args:
        uri, ref, experiment_name: which sweep.
        log: how progress is shown.
        context: what was made of its experiment already; None makes it.
        trust: code that the record names may run, although the sweep was not started here.

    Raises:
        InputError: no such sweep, another searcher's, or not trusted; or weights, data or space are not those of the sweep.
        BitfrontError: the searcher is not the one that was recorded.
    """
    recorded = tracking.read(uri, ref, experiment_name)
    experiment = loads(recorded.experiment, f"experiment of sweep {recorded.name}")
    if experiment.search.searcher != LEARNS:
        by = experiment.search.searcher
        raise InputError(f"sweep {recorded.name!r} was searched by {by!r}; an agent is saved of one by {LEARNS!r}.")
    context = reopened(recorded, context, Phases(log), trust=trust)
    problem = context.problem(recorded.baseline)
    searcher = searcher_of(experiment, problem)
    if not isinstance(searcher, HaqSearcher):
        raise InputError(f"sweep {recorded.name!r} has a space of one policy: there was nothing to learn.")
    sweep_of(context.setup, problem, searcher, recorded, MemoryRecord(recorded)).replay(recorded.trials)
    return searcher.saved(recorded.name)
