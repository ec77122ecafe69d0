"""Setting a sweep's record right: stale tags of the front, records that were not sent, a store that was lost."""

from dataclasses import dataclass

from search.tracking import names
from search.tracking.client import connect, experiment_id, reported
from search.tracking.opening import take_up
from search.tracking.orphans import Orphan, folders, orphans
from search.tracking.reading import Row, find_sweep, journal_of, sweeps

SEND_S = 20.0


@dataclass(frozen=True)
class Repaired:
    """What was set right.

    Attributes:
        name, run_id: of the sweep, as it is now.
        trials: how many the record has.
        mended: trials whose tags of the front were not theirs.
        rebuilt: the sweep was written anew from its journal.
        complete: MLflow has everything.
    """

    name: str
    run_id: str
    trials: int
    mended: int
    rebuilt: bool
    complete: bool


def repair(uri: str, ref: str, experiment_name: str | None = None) -> Repaired:
    """Send the journal of a sweep, compare the front's tags with the trials' figures, and begin a lost sweep anew.

    Raises:
        InputError: neither the store nor a journal near it knows `ref`, or the sweep is being written.
        BitfrontError: the store cannot be reached.
    """
    connect(uri, folders(uri)[0])
    lost = [orphan for orphan in _lost(uri) if ref in (orphan.name, orphan.journal.path.stem)]
    parent = _begun_anew(uri, lost[0]) if lost else find_sweep(uri, ref, experiment_name)
    journal = journal_of(uri, parent)
    journal.acquire()
    journal.resend()
    tracker = take_up(uri, parent, journal)
    if tracker.sweep.status == "running":
        complete = tracker.finish("stopped", SEND_S)
    else:
        tracker.check()
        complete = tracker.close(SEND_S)
    return Repaired(tracker.sweep.name, tracker.run_id, len(tracker.sweep.trials), tracker.mended, bool(lost), complete)


def _lost(uri: str) -> list[Orphan]:
    return orphans(uri, (row.run_id for row in sweeps(uri)))


def _begun_anew(uri: str, orphan: Orphan) -> Row:
    """Create the parent run of a lost sweep and give its journal the new run's name."""
    orphan.journal.acquire()
    client = connect(uri, orphan.journal.path.parent)
    where = experiment_id(client, orphan.experiment, uri)
    tags = orphan.tags | {names.SPOOL: str(orphan.journal.path.parent.resolve())}
    with reported(uri):
        run_id = client.create_run(where, tags=tags).info.run_id
    orphan.journal.rename(run_id)
    orphan.journal.release(remove=False)
    return find_sweep(uri, run_id)
