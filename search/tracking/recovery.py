"""Closing a sweep whose writer died: what its journal still holds goes to MLflow, and its status becomes stopped."""

import logging

from quant_core.util.errors import BitfrontError
from search.tracking.reading import find_sweep, journal_of

log = logging.getLogger("bitfront.tracking")
SEND_S = 10.0
"""How long a store that does not answer is waited for."""


def recover(uri: str, ref: str, experiment_name: str | None = None) -> bool:
    """Send the journal of a writer that died on this machine, and set its sweep to stopped; tell whether there was a journal.

    A sweep that is being written is left alone. A store that does not answer is a warning: the journal stays for the next time.

    Raises:
        InputError: no sweep, or more than one, is called `ref`.
        BitfrontError: the store cannot be read.
    """
    parent = find_sweep(uri, ref, experiment_name)
    journal = journal_of(uri, parent)
    if not journal.path.is_file() or not journal.try_acquire():
        return False
    from search.tracking.opening import take_up

    try:
        tracker = take_up(uri, parent, journal)
    except BitfrontError as error:
        log.warning("%s What is in %s is sent later.", error, journal.path)
        journal.release(remove=False)
        return True
    if tracker.sweep.status == "running":
        tracker.finish("stopped", timeout_s=SEND_S)
    else:
        tracker.close(timeout_s=SEND_S)
    return True
