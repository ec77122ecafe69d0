"""A small process beside the driver of a sweep on Ray: `python -P guard.py`. It tells what to type when the driver is gone, and tidies up.

Ray's own library ends the driver where its GCS or an agent is lost, and a kill ends it anyway: nothing in that process can speak then. The
guard reads its standard input: one line of JSON, {"folder": ..., "said": ...}, then "done" where all went well. If the input ends without
that, the driver is gone. It imports what Python brings, and psutil when there is something to end.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

GRACE_S = 5.0
"""Ray's processes end by themselves when their driver is gone; those that are there after so long are ended."""


def main() -> None:
    """Wait for the end of the driver."""
    first = sys.stdin.readline()
    if not first or sys.stdin.readline().strip() == "done":
        return
    order = json.loads(first)
    with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
        print(order["said"], file=sys.stderr, flush=True)  # noqa: T201
    clear(Path(order["folder"]))


def clear(folder: Path, grace_s: float = GRACE_S) -> None:
    """End the processes of this user that work in `folder`, after a time to end by themselves, and remove it."""
    begun = time.monotonic()
    while (left := working_in(folder)) and time.monotonic() - begun < grace_s:
        time.sleep(0.1)
    for process in left:
        with contextlib.suppress(OSError):
            os.kill(process, 9)
    with (
        contextlib.suppress(OSError),
        tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent, ignore_cleanup_errors=True) as private,
    ):
        folder.rename(Path(private) / "left")


def working_in(folder: Path) -> list[int]:
    """Return the processes of this user that were started with a path in `folder`, or hold a file there open, this one left out."""
    import psutil

    inside, user, pids = f"{folder}{os.sep}", os.getuid(), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.uids().real != user:
                continue
            started_in = any(inside in f"{argument}{os.sep}" for argument in process.cmdline())
            if started_in or any(file.path.startswith(inside) for file in process.open_files()):
                pids.append(process.pid)
    return pids


if __name__ == "__main__":
    main()
