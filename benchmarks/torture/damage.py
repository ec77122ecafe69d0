"""Damaged files of every kind that a sweep writes: bytes changed, cut, emptied, replaced."""

import contextlib
import io
import json
import logging
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.torture import caches
from benchmarks.torture.record import NAME, OBJECTIVES, REFERENCE, empty_store, faults, trials
from quant_core.spec.policy import Policy
from quant_core.util.errors import BitfrontError
from quant_core.util.files import write_text
from quant_core.util.reading import read_json
from search import tracking
from search.exporters.folder import REPORT, written_files
from search.records.record import SweepRecord
from search.tracking.spool import Spool
from search.tracking.store import Store

COUNT = 12
KINDS = ("journal", "sent", "artifact", "database", "lock", "policy", "report", *caches.KINDS)


def attack(tries: int, rng: random.Random) -> dict[str, int]:
    """Damage one file at a time; what cannot be read is said in one sentence, and what can be read is kept."""
    total = {"lost": 0, "duplicated": 0, "untidy": 0}
    empty = empty_store()
    with _silenced("bitfront.tracking", "search.tasks.cache"):
        for number in range(tries):
            # the thread of a sweep that was not sent may be writing while its folder goes: a user's process has ended by then
            with tempfile.TemporaryDirectory(prefix="torture-damage-", ignore_cleanup_errors=True) as folder, _inside(Path(folder)):
                Path("mlflow.db").write_bytes(empty)
                for name, figure in _one(Path(folder), KINDS[number % len(KINDS)], rng).items():
                    total[name] += figure
    return total


@contextlib.contextmanager
def _silenced(*names: str) -> Iterator[None]:
    """Keep loggers from warning of every file that was damaged."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        os.chdir(before)


def _unsent(uri: str) -> Path:
    """Record a sweep to a store that takes nothing; return the journal."""
    apply = Store.apply
    header = SweepRecord(NAME, "", "", {}, OBJECTIVES, {}, REFERENCE, {}, "running")
    tracker = tracking.start(uri, "torture", header, {})
    Store.apply = lambda *_given: (_ for _ in ()).throw(ConnectionError("away"))  # type: ignore[method-assign]
    try:
        for trial in trials(COUNT):
            tracker.record(trial)
        tracker.finish("stopped", 0.1)
    finally:
        Store.apply = apply  # type: ignore[method-assign]
    return Path(tracker._spool.path)


def _one(folder: Path, kind: str, rng: random.Random) -> dict[str, int]:
    if kind in caches.KINDS:
        return {"lost": 0, "duplicated": 0, "untidy": not caches.survives(kind, folder, lambda data: _harmed(data, rng))}
    uri = f"sqlite:///{folder}/mlflow.db"
    journal = _unsent(uri)
    policy, report = folder / "policy.json", folder / REPORT
    write_text(policy, json.dumps(trials(1)[0].policy.to_json()))
    write_text(report, '{"formats": {}, "files": []}')
    sent = journal.with_suffix(".sent")
    if not sent.exists():
        sent.write_text("0")
    artifact = next((path for path in journal.with_suffix("").rglob("*") if path.is_file()), sent)
    target = {"journal": journal, "sent": sent, "artifact": artifact, "database": folder / "mlflow.db"}.get(kind)
    target = target or {"lock": folder / ".bitfront" / "mlflow.lock", "policy": policy, "report": report}[kind]
    before = target.read_bytes() if target.exists() else b""
    after = _harmed(before, rng)
    target.write_bytes(after)
    lines = Spool(journal.parent, journal.stem).all_lines()
    readable = {line["trial"]["number"] for line in lines if line["op"] == "trial"}
    result = {"lost": 0, "duplicated": 0, "untidy": 0}
    if kind != "journal":
        result["lost"] += len(set(range(COUNT)) - readable)
    elif abs(len(after) - len(before)) == 0:
        result["lost"] += max(0, COUNT - len(readable) - sum(a != b for a, b in zip(before, after, strict=True)))
    try:
        tracking.recover(uri, NAME)
        result |= {key: result[key] + figure for key, figure in faults(uri, COUNT, readable).items()}
        if kind == "policy":
            Policy.from_json(read_json(policy))
        if kind == "report":
            written_files(folder)
    except BitfrontError:
        pass
    except Exception:  # an error without a sentence of ours
        result["untidy"] += 1
    return result


def _harmed(data: bytes, rng: random.Random) -> bytes:
    """Return a file with a few bytes changed, cut short, empty, or full of something else."""
    how = rng.randrange(4)
    if how == 0 and data:
        changed = bytearray(data)
        for _ in range(3):
            changed[rng.randrange(len(changed))] ^= rng.randrange(1, 256)
        return bytes(changed)
    if how == 1:
        return data[: rng.randrange(len(data) + 1)]
    return b"" if how == 2 else rng.randbytes(max(10, len(data) // 2))
