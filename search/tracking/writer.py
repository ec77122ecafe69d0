"""The background thread that carries the spool to MLflow, patiently."""

import logging
import threading
import time

from search.tracking.client import explain, is_permanent, quiet
from search.tracking.outage import Outage, outage
from search.tracking.spool import Spool
from search.tracking.store import Store

GATHER_S = 0.1  # what comes within this time goes together
BATCH = 50
PATIENCE_S = (1.0, 2.0, 4.0, 8.0, 15.0)  # waits between attempts while the store is away; the last repeats
WARN_AT = 2  # failures in a row; a single one is a connection that idled too long
LEAVE_S = 15.0  # how long a request that is under way at the end is waited for
log = logging.getLogger("bitfront.tracking")


class Writer:
    """Sends what is in the spool, in order, and keeps trying while the store is away. It never raises into the sweep.

    Args:
        spool: held by this process.
        store: where to.
    """

    def __init__(self, spool: Spool, store: Store) -> None:
        self._spool, self._store = spool, store
        self._thread = threading.Thread(target=self._run, name="bitfront-mlflow", daemon=True)
        self._wake, self._halt = threading.Event(), threading.Event()
        self._failures = 0
        self.refused = 0
        self.outage: Outage | None = None
        self._full = False  # a full disk takes a line now and then
        self.busy_s = 0.0

    @property
    def mended(self) -> int:
        """Trials whose tags of the front were set right."""
        return self._store.mended

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()
        self.wake()

    def wake(self) -> None:
        """Say that the spool has grown."""
        self._wake.set()

    def _run(self) -> None:
        """Send until stopped."""
        with quiet.held():
            while not self._halt.is_set():
                self._wake.wait()
                self._halt.wait(GATHER_S)
                self._wake.clear()
                while not self._halt.is_set() and self._step():
                    pass
                if self._failures:
                    self._halt.wait(PATIENCE_S[min(self._failures, len(PATIENCE_S)) - 1])
                    self._wake.set()

    def close(self, timeout_s: float) -> bool:
        """Send the rest and end, giving up after `timeout_s` without progress; tell whether MLflow has everything."""
        self._wake.set()
        begun = time.monotonic()
        deadline, sent, written = begun + timeout_s, self._spool.sent, self._store.written
        while self._thread.is_alive() and time.monotonic() < (begun + timeout_s if self._full else deadline):
            if not self._spool.unsent(1)[0]:
                break
            self._thread.join(0.05)
            now_sent, now_written = self._spool.sent, self._store.written
            if now_sent > sent or (now_sent == sent and now_written > written):  # an attempt that fails again goes no further
                deadline, sent, written = time.monotonic() + timeout_s, now_sent, now_written
        self._halt.set()
        self._wake.set()
        self._thread.join(min(timeout_s, LEAVE_S))
        return not self._thread.is_alive() and not self._spool.unsent(1)[0] and not self.refused

    def _step(self) -> bool:
        """Send one batch; tell whether there may be more."""
        start = time.monotonic()
        try:
            lines, offset = self._spool.unsent(BATCH if not self._failures else 1)
            if not lines:
                return False
            self._spool.sync()
            self._store.apply(lines, self._spool.files)
            self._store.written = 0
            self._spool.mark_sent(offset)
        except Exception as error:  # tracking must not end a sweep
            return self._failed(error)
        self.busy_s += time.monotonic() - start
        if self._failures >= WARN_AT:
            log.warning("MLflow is back; sending what was kept.")
        self._failures, self.outage = 0, None
        return True

    def _failed(self, error: Exception) -> bool:
        """Warn once per outage; skip what the store refuses for good. Tell whether to go on at once."""
        self._failures += 1
        if is_permanent(error) and self._failures > 1:
            lines, offset = self._spool.unsent(1)
            log.error("MLflow refused a record (%s): %s. It stays in %s.", lines[0]["op"], explain(error), self._spool.path)
            self.refused += 1
            self._spool.mark_sent(offset)
            self._failures = 0
            return True
        self.outage = outage(error, self._store.uri)
        self._full |= "is full" in self.outage.cause
        if self.outage.lost:  # what was sent went with the store: all of the journal is to be sent to the next one
            self._spool.resend()
            self._halt.set()
            log.error("%s. The sweep goes on; all of it is kept in %s.", self.outage.cause, self._spool.path)
            return False
        if self._failures == WARN_AT:
            log.warning("%s. The sweep goes on; records are kept in %s and sent later.", self.outage.cause, self._spool.path)
        return False
