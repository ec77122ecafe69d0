"""A made-up sweep that is recorded by a process of its own, which is to be killed: `python -m benchmarks.torture.record FOLDER ...`."""

import argparse
import functools
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tracking import made_up
from search import tracking
from search.problem.pareto import Archive
from search.records.front import front_members, knee_number
from search.records.record import SweepRecord, TrialRecord
from search.tracking import names

NAME, LAYERS = "tortured", 4
OBJECTIVES = ("error", "weight_bytes")
REFERENCE = {"error": 1.0, "weight_bytes": 800.0 * LAYERS}


@functools.cache
def empty_store() -> bytes:
    """Return a SQLite file with MLflow's tables; making one takes seconds."""
    from search.tracking.client import connect

    with tempfile.TemporaryDirectory(prefix="torture-store-") as folder:
        connect(f"sqlite:///{folder}/mlflow.db", Path(folder))
        return (Path(folder) / "mlflow.db").read_bytes()


def trials(count: int) -> list[TrialRecord]:
    """Return the trials of the sweep, alike in every process."""
    rng = random.Random(0)
    return [made_up(number, LAYERS, rng) for number in range(count)]


def run(uri: str, count: int, seconds: float, wait_s: float) -> bool:
    """Begin the sweep, or take it up, and record the trials that are missing; prints the number of every one that is in the journal."""
    rows = tracking.sweeps(uri) if not uri.startswith("sqlite") or Path(uri.removeprefix("sqlite:///")).is_file() else []
    if any(row.tags[names.SWEEP] == NAME for row in rows):
        tracker = tracking.open(uri, None, NAME)
    else:
        header = SweepRecord(NAME, "", "", {}, OBJECTIVES, {}, REFERENCE, {"weight_bytes": 3200.0 * LAYERS}, "running")
        tracker = tracking.start(uri, "torture", header, {"searcher": "random"})
    done, archive = {trial.number for trial in tracker.sweep.trials}, Archive(tuple(REFERENCE.values()))
    for trial in trials(count):
        if trial.number not in done:
            time.sleep(seconds)
            tracker.record(trial)
            print(trial.number, flush=True)
        if archive.add(trial.number, (trial.result.metrics["error"], trial.result.cost["weight_bytes"])):
            tracker.update_front(archive.numbers, archive.knee, archive.hypervolume)
    return tracker.finish("finished", wait_s)


def faults(uri: str, count: int, said: set[int]) -> dict[str, int]:
    """Return what is lost, doubled or untidy in the record: trials that were `said` to be recorded count as lost where they are not."""
    record = tracking.read(uri, NAME)
    expected = {trial.number: trial for trial in trials(count)}
    held = {trial.number: trial for trial in record.trials}
    lost = sum(held.get(number) != expected[number] for number in said)
    rows = [row for row in tracking.reading.family(uri, tracking.reading.find_sweep(uri, NAME))[1]]
    doubled = len(rows) - len({row.tags[names.TRIAL] for row in rows})
    untidy = 0
    if record.status == "finished":
        front = front_members(record)
        tagged = {int(row.tags[names.TRIAL]) for row in rows if row.tags[names.PARETO] == "true"}
        knees = {int(row.tags[names.TRIAL]) for row in rows if row.tags[names.KNEE] == "true"}
        untidy += tagged != {trial.number for trial in front}
        untidy += knees != {knee_number(front, OBJECTIVES)}
        untidy += len(held) != count
        if uri.startswith("sqlite"):
            folder = Path(uri.removeprefix("sqlite:///")).parent
            untidy += len([path for path in (folder / ".bitfront").iterdir() if path.name != "mlflow.lock"])
            untidy += len(list(folder.glob(".*.tmp")))
    return {"lost": lost, "duplicated": doubled, "untidy": untidy}


def main() -> None:
    """Run in a folder; the exit code is 1 where MLflow does not have everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.01)
    parser.add_argument("--wait-s", type=float, default=45.0)
    parser.add_argument("--uri", default="")
    arguments = parser.parse_args()
    os.chdir(arguments.folder)
    uri = arguments.uri or f"sqlite:///{arguments.folder}/mlflow.db"
    sys.exit(0 if run(uri, arguments.trials, arguments.seconds, arguments.wait_s) else 1)


if __name__ == "__main__":
    main()
