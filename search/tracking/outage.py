"""Why a store does not take what is sent, in plain words, and what to do about it. Free of mlflow."""

import re
from dataclasses import dataclass
from pathlib import Path

from quant_core.util.errors import BitfrontError
from search.tracking.names import redact

SQLITE = "sqlite:///"
REPAIR = "then `bitfront repair SWEEP` writes the sweep anew from its journal"
_REBUILD = f"move it away, {REPAIR}"
_CAUSES = (
    (r"disk is full|No space left|quota exceeded", "the disk of {place} is full", "free some space there, then `bitfront front SWEEP`"),
    (r"(database|table).* is locked", "{place} is locked by another process", "end that process, then `bitfront front SWEEP`"),
    (r"malformed|not a database", "{place} is damaged", _REBUILD),
    (r"readonly database|Permission denied|Read-only", "{place} cannot be written", "make it writable, then `bitfront front SWEEP`"),
    (r"no such table", "{place} has lost tables of MLflow's", _REBUILD),
)
_LATER = "the next bitfront command sends it"


class StoreGoneError(BitfrontError):
    """The file of a store was removed, or another one put in its place, while it was written."""


@dataclass(frozen=True)
class Outage:
    """A store that does not take what is sent.

    Attributes:
        cause: a clause without a full stop.
        remedy: what to do, likewise.
        lost: what was sent before is lost too.
    """

    cause: str
    remedy: str
    lost: bool = False


def outage(error: BaseException, uri: str) -> Outage:
    """Return why a store refused, from the error that it raised."""
    text = f"{type(error).__name__}: {error}"
    place = Path(uri.removeprefix(SQLITE)).name if uri.startswith(SQLITE) else redact(uri)
    if isinstance(error, StoreGoneError):
        return Outage(str(error), REPAIR.removeprefix("then "), lost=True)
    for pattern, cause, remedy in _CAUSES:
        if re.search(pattern, text, re.IGNORECASE):
            return Outage(cause.format(place=place), remedy, lost=remedy == _REBUILD)
    return Outage(f"MLflow does not answer ({redact(text.splitlines()[0])[:300]})", _LATER)


def identity(uri: str) -> tuple[int, int] | None:
    """Return device and inode of the file of a SQLite store; None for another store, or where there is no such file."""
    if not uri.startswith(SQLITE) or "?" in uri:
        return None
    try:
        status = Path(uri.removeprefix(SQLITE)).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def require_same(uri: str, before: tuple[int, int] | None) -> None:
    """Refuse to write to a store whose file is no longer the one that was opened: what is written there is lost with it.

    Raises:
        StoreGoneError: the file was removed or replaced.
    """
    now = identity(uri)
    if before is not None and now != before:
        done = "removed" if now is None else "replaced by another file"
        raise StoreGoneError(f"{Path(uri.removeprefix(SQLITE)).name} was {done} while the sweep ran")
