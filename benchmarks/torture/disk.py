"""Disks that fill up at different points of a sweep: a small tmpfs that is filled to so many bytes, and freed afterwards."""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.torture.child import Child, add
from benchmarks.torture.record import empty_store, faults

COUNT, SIZE = 30, 32 * 2**20
LONGEST_S = 65.0
"""A minute after the last trial, and the end of a process."""


def attack(tries: int, rng: random.Random) -> dict[str, int] | None:
    """Record a sweep on a disk with less room than it needs; then free the disk and finish it."""
    if sys.platform != "linux" or os.geteuid():
        return None
    total = {"lost": 0, "duplicated": 0, "untidy": 0}
    for _ in range(tries):
        with tempfile.TemporaryDirectory(prefix="torture-disk-") as place:
            if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", place], check=False).returncode:
                return None
            try:
                add(total, _one(Path(place), rng))
            finally:
                subprocess.run(["umount", "-l", place], check=True)
    return total


def _one(folder: Path, rng: random.Random) -> dict[str, int]:
    said: set[int] = set()
    (folder / "mlflow.db").write_bytes(empty_store())
    first = Child(folder, said, "--trials", "1", "--seconds", "0")
    untidy = int(first.wait() != 0)
    ballast, free = folder / "ballast", os.statvfs(folder)
    ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - rng.randrange(4096, 1_000_000))))
    child = Child(folder, said, "--trials", str(COUNT))
    code = child.wait()
    took = time.monotonic() - child.last
    untidy += took > LONGEST_S
    if code and (code != 1 or "free some space" not in child.errors or took > LONGEST_S):
        print(f"exit code {code} after {took:.0f} s: {child.errors}", file=sys.stderr)
    untidy += code not in (0, 1) or (code == 1 and "free some space" not in child.errors)
    ballast.unlink()
    again = Child(folder, said, "--trials", str(COUNT))
    if again.wait():
        untidy += 1
        print(f"after the disk was freed: {again.errors}", file=sys.stderr)
    result = dict(faults(f"sqlite:///{folder}/mlflow.db", COUNT, said | set(range(COUNT))))
    return result | {"untidy": result["untidy"] + untidy}
