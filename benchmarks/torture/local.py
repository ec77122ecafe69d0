"""Random kills of the process that records a sweep, from its first trial to the wait at its end."""

import random
import tempfile
from pathlib import Path

from benchmarks.torture.child import add, kill_chain
from benchmarks.torture.record import empty_store


def attack(tries: int, rng: random.Random) -> dict[str, int]:
    """Kill so often, over as many sweeps as it takes."""
    total, done = {"lost": 0, "duplicated": 0, "untidy": 0}, 0
    while done < tries:
        with tempfile.TemporaryDirectory(prefix="torture-") as folder:
            (Path(folder) / "mlflow.db").write_bytes(empty_store())
            kills, faults = kill_chain(Path(folder), tries - done, rng)
        done += kills
        add(total, faults)
    return total
