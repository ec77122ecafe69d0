"""Watching over the cluster of a sweep: Ray's library waits for ever where the raylet of the driver's node is gone."""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from types import TracebackType

RAYLET_S, GCS_S, EVERY_S = 4.0, 20.0, 1.0
LEAVE_S = 15.0
"""How long the driver may take to leave a cluster that is lost before its process is ended."""


def refuses(address: str) -> bool:
    """Tell whether nothing listens at "host:port", or at the path of a socket; an answer that is late is no refusal."""
    host, _, port = address.rpartition(":")
    family, place = (socket.AF_UNIX, address) if address.startswith("/") else (socket.AF_INET, (host, int(port)))
    with closing(socket.socket(family)) as probe:
        probe.settimeout(5.0)
        try:
            probe.connect(place)
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:
            return False
    return False


class ClusterWatch:
    """Context in which a thread looks, from `begin` on, whether the raylet of this node and the GCS are there.

    Where one is not, `lost` says so, and the driver should leave. If it has not left the context after `LEAVE_S`, since Ray's library waits
    for what never comes, the process ends with exit code 1: the record is complete up to its last trial.
    """

    def __init__(self, refused: Callable[[str], bool] = refuses, end: Callable[[int], object] = os._exit) -> None:
        self.lost = ""
        self._refused, self._end, self._left = refused, end, threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, raylet: str, gcs: str) -> None:
        """Watch the addresses of a raylet and a GCS."""
        self._thread = threading.Thread(target=self._watch, args=(raylet, gcs), name="bitfront-ray-watch", daemon=True)
        self._thread.start()

    def _watch(self, raylet: str, gcs: str) -> None:
        limits = {f"the raylet of this node ({raylet})": (raylet, RAYLET_S), f"the GCS at {gcs}": (gcs, GCS_S)}
        absent = dict.fromkeys(limits, 0.0)
        while not self.lost:
            if self._left.wait(EVERY_S):
                return
            for name, (address, limit) in limits.items():
                absent[name] = absent[name] + EVERY_S if self._refused(address) else 0.0
                if absent[name] >= limit:
                    self.lost = f"{name} is gone"
        if not self._left.wait(LEAVE_S):
            self._end(1)

    def __enter__(self) -> "ClusterWatch":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._left.set()
        if self._thread:
            self._thread.join()
