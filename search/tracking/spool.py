"""The local journal of a sweep: what is recorded is here at once, and from here it goes to MLflow. Free of mlflow."""

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from quant_core.util.errors import BitfrontError, InputError
from search.tracking.codec import Json, dumps

FOLDER = Path(".bitfront")
RUN_ID = re.compile(r"[0-9a-f]{32}")
WAIT_S = 2.0  # a reader may look at the journal for a moment


def is_inside(name: str) -> bool:
    """Tell whether a relative path stays in the folder that it starts from."""
    path = Path(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


class Spool:
    """Append-only lines of JSON in `<folder>/<run_id>.jsonl`, and in `.sent` how many bytes of them MLflow has.

    One process at a time holds a sweep's spool. Nothing but these files, and the artifacts that the journal names, is ever written or
    removed. A line half written when the machine lost power is dropped by the next holder.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        if not RUN_ID.fullmatch(run_id):
            raise InputError(
                f"{run_id[:80]!r} is no MLflow run id (32 hexadecimal digits); the store was not made by MLflow, or is damaged."
            )
        self.path = folder / f"{run_id}.jsonl"
        self.files = folder / run_id
        self._sent_path = folder / f"{run_id}.sent"
        self._handle = -1

    def acquire(self) -> None:
        """Take the spool for this process, making it where it is absent.

        Raises:
            InputError: another process holds it.
            BitfrontError: the folder cannot be written.
        """
        deadline = time.monotonic() + WAIT_S
        while not self.try_acquire():
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise InputError(f"another process is writing this sweep ({self.path} is held); stop that one first.")

    def try_acquire(self) -> bool:
        """Take the spool unless another process holds it; tell whether it was taken."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise BitfrontError(f"cannot write {self.path}: {error.strerror}; make its folder writable or start elsewhere.") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        if not self.path.exists() or os.fstat(handle).st_ino != self.path.stat().st_ino:  # its last holder removed it meanwhile
            os.close(handle)
            return self.try_acquire()
        self._handle = handle
        os.ftruncate(handle, self._complete())
        return True

    def abandoned(self) -> bool:
        """Tell whether there is a journal that no process holds: its writer died. Nothing is written."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(handle)
        return True

    def _complete(self) -> int:
        """Bytes up to the end of the last whole line."""
        return self.path.read_bytes().rfind(b"\n") + 1

    def append(self, *lines: Json) -> None:
        """Write lines at once; they survive the death of this process from here on, and of the machine from the next `sync`."""
        data = "".join(dumps(line) + "\n" for line in lines).encode()
        try:
            while data:
                data = data[os.write(self._handle, data) :]
        except OSError as error:
            raise self._unwritable(self.path, error) from None

    def sync(self) -> None:
        """Force the lines to the disk."""
        os.fsync(self._handle)

    @property
    def sent(self) -> int:
        """Bytes that MLflow has."""
        return int(self._sent_path.read_text()) if self._sent_path.exists() else 0

    def mark_sent(self, offset: int) -> None:
        """Note that MLflow has everything up to `offset`. Losing this note costs a replay, which changes nothing."""
        temporary = self._sent_path.with_suffix(".tmp")
        temporary.write_text(str(offset))
        temporary.replace(self._sent_path)

    def unsent(self, limit: int | None = None) -> tuple[list[Json], int]:
        """Return up to `limit` whole lines that MLflow does not have yet, and the offset behind them."""
        lines: list[Json] = []
        if not self.path.exists():
            return lines, 0
        end = self.sent
        with self.path.open("rb") as file:
            file.seek(end)
            for raw in file:
                if not raw.endswith(b"\n") or (limit is not None and len(lines) == limit):
                    break
                lines.append(json.loads(raw))
                end += len(raw)
        return lines, end

    def keep_file(self, name: str, content: bytes) -> Path:
        """Keep the content of an artifact until it is sent; the latest content of a name wins.

        Raises:
            InputError: the name leads out of the folder of artifacts.
            BitfrontError: the folder cannot be written.
        """
        if not is_inside(name):
            raise InputError(f"artifact name {name!r} given; a relative path without '..' is needed.")
        target = self.files / name
        temporary = target.with_name(target.name + ".tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            return temporary.replace(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise self._unwritable(target, error) from None

    def _remove_artifacts(self) -> None:
        """Remove the artifacts that the journal names, and the folders that are empty then."""
        names = {line["name"] for line in self._lines() if line.get("op") == "artifact"}
        folders = set()
        for path in (self.files / name for name in names if is_inside(name)):
            path.unlink(missing_ok=True)
            folders |= {folder for folder in path.parents if folder == self.files or self.files in folder.parents}
        for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
            with contextlib.suppress(OSError):  # another file is in it, or it is gone
                folder.rmdir()

    def _lines(self) -> Iterator[Json]:
        """Yield every whole line of the journal."""
        with self.path.open("rb") as file:
            yield from (json.loads(raw) for raw in file if raw.endswith(b"\n"))

    @staticmethod
    def _unwritable(path: Path, error: OSError) -> BitfrontError:
        return BitfrontError(f"cannot write {path}: {error.strerror}; free some space there, then resume the sweep.")

    def release(self, *, remove: bool) -> None:
        """Let go of the spool; `remove` deletes it first, once MLflow has everything."""
        if remove:
            self._remove_artifacts()
            self._sent_path.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
        os.close(self._handle)
        self._handle = -1
