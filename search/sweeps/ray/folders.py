"""The temporary folder of a sweep on Ray: one that its driver holds by a lock, so that a later sweep knows those whose driver is gone."""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from search.sweeps.ray import guard

PREFIX, OWNER = "bf-ray-", "owner"


@contextmanager
def sweep_folder(said: str) -> Iterator[Path]:
    """Return a temporary folder that goes with the context, and with the driver where that is killed within it.

    Args:
        said: what a small process beside this one prints to standard error if this one is gone before the context ends.
    """
    with _registered() as registry:
        clear_abandoned(registry)
        temporary = tempfile.TemporaryDirectory(prefix=PREFIX, dir=registry, ignore_cleanup_errors=True)
        folder = Path(temporary.name)
        owner = (folder / OWNER).open("w")
        fcntl.flock(owner, fcntl.LOCK_EX)
    with temporary, owner, _guarded(folder, said):
        yield folder


@contextmanager
def _guarded(folder: Path, said: str) -> Iterator[None]:
    """Let the small process beside this one watch over a folder within the context."""
    command = [sys.executable, "-P", guard.__file__]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True)
    with suppress(OSError):
        _tell(watcher, json.dumps({"folder": str(folder), "said": said}))
    try:
        yield
    finally:
        with suppress(OSError):
            _tell(watcher, "done")
            watcher.communicate()


def _tell(watcher: "subprocess.Popen[str]", line: str) -> None:
    if watcher.stdin:
        watcher.stdin.write(f"{line}\n")
        watcher.stdin.flush()


@contextmanager
def _registered() -> Iterator[Path]:
    """Hold the lock under which folders of this user are made and cleared; gives the folder that holds them."""
    place = Path(tempfile.gettempdir())
    with (place / f"{PREFIX}{os.getuid()}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield place


def clear_abandoned(place: Path) -> None:
    """Remove the folders of this user whose driver is gone, and end what still works in them."""
    for folder in (path for path in place.glob(f"{PREFIX}*") if path.is_dir()):
        with suppress(OSError):
            if not folder.is_symlink() and folder.stat().st_uid == os.getuid() and _abandoned(folder):
                guard.clear(folder, grace_s=0.0)


def _abandoned(folder: Path) -> bool:
    try:
        with (folder / OWNER).open("a") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
