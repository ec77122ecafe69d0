"""The local journal of a sweep: what is recorded is here at once, and from here it goes to MLflow. Free of mlflow."""

import contextlib
import errno
import fcntl
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from quant_core.util.errors import BitfrontError, InputError
from quant_core.util.files import write_bytes, write_text
from search.tracking.codec import Json
from search.tracking.lines import decode, encode, is_inside, note, noted, salvaged

log = logging.getLogger("bitfront.tracking")

FOLDER = Path(".bitfront")
RUN_ID = re.compile(r"[0-9a-f]{32}")
WAIT_S = 2.0  # a reader may look at the journal for a moment
FULL_S = 10.0  # how long a full disk is waited for before the sweep ends
_FULL = (errno.ENOSPC, errno.EDQUOT)


def stays_inside(folder: Path, name: str) -> bool:
    """Tell whether a file of this name is in `folder` also when links are followed: neither the folder nor one below it is a link."""
    if not is_inside(name):
        return False
    places = [folder, *(folder / parent for parent in Path(name).parents)]
    return not any(place.is_symlink() for place in places)


def check_run_id(run_id: str) -> None:
    """Refuse an id that MLflow did not make: files are named by it.

    Raises:
        InputError: it is no run id.
    """
    if not RUN_ID.fullmatch(run_id):
        raise InputError(f"{run_id[:80]!r} is no MLflow run id (32 hexadecimal digits); the store was not made by MLflow, or is damaged.")


class Spool:
    """Append-only lines of JSON in `<folder>/<run_id>.jsonl`, and in `.sent` how many bytes of them MLflow has.

    One process at a time holds a sweep's spool. Nothing but these files, and the artifacts that the journal names, is ever written or
    removed. A line half written when the machine lost power is dropped by the next holder. Every line has a checksum: a damaged one is
    left out with a warning that names file and line, and what stands whole beside the damage is kept.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        check_run_id(run_id)
        self.path = folder / f"{run_id}.jsonl"
        self.files = folder / run_id
        self._sent_path = folder / f"{run_id}.sent"
        self._handle = -1
        self._damaged: set[int] = set()
        self._sent = -1
        self._appending = threading.Lock()

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
        self._end_whole()
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

    def _end_whole(self) -> None:
        """Cut the journal at the end of its last whole line; a record that lacks nothing but its line end is given one."""
        data = self.path.read_bytes()
        size = data.rfind(b"\n") + 1
        if size < len(data) and list(salvaged(data[size:])):
            os.write(self._handle, b"\n")
        else:
            os.ftruncate(self._handle, size)

    def append(self, *lines: Json) -> None:
        """Write lines at once; they survive the death of this process from here on, and of the machine from the next `sync`.

        A full disk is waited for `FULL_S` seconds. Either every line is written, or none.

        Raises:
            BitfrontError: the journal cannot be written.
        """
        data, deadline = b"".join(map(encode, lines)), time.monotonic() + FULL_S
        with self._appending:
            while (error := self._append(data)) and error.errno in _FULL and time.monotonic() < deadline:
                time.sleep(min(0.5, FULL_S))
        if error:
            raise self._unwritable(self.path, error) from None

    def _append(self, data: bytes) -> OSError | None:
        """Write all of `data`, or nothing and return why."""
        size = os.fstat(self._handle).st_size
        try:
            while data:
                data = data[os.write(self._handle, data) :]
        except OSError as error:
            os.ftruncate(self._handle, size)
            return error
        return None

    def sync(self) -> None:
        """Force the lines to the disk."""
        os.fsync(self._handle)

    @property
    def sent(self) -> int:
        """Bytes that MLflow has: up to the end of a line. Where the note of it is absent or damaged, 0: a replay."""
        if self._sent >= 0:
            return self._sent
        try:
            offset = noted(self.path.stem, self._sent_path.read_text())
            with self.path.open("rb") as file:
                file.seek(max(0, offset - 1))
                return offset if offset > 0 and file.read(1) == b"\n" else 0
        except (OSError, ValueError):
            return 0

    def mark_sent(self, offset: int) -> None:
        """Note that MLflow has everything up to `offset`. Losing this note, as on a full disk, costs a replay, which changes nothing."""
        self._sent = offset
        with contextlib.suppress(InputError):
            write_text(self._sent_path, note(self.path.stem, offset))

    def resend(self) -> None:
        """Have the whole journal sent again."""
        self.mark_sent(0)

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
                lines += self._read(raw, end)
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
        if not stays_inside(self.files, name):
            raise InputError(f"artifact {name!r}: {target.parent} is a link to another folder; remove it.")
        try:
            write_bytes(target, content)
        except InputError as error:
            raise self._unwritable(target, error.__cause__ or error) from None
        return target

    def _remove_artifacts(self) -> None:
        """Remove the artifacts that the journal names, and the folders that are empty then."""
        names = {line["name"] for line in self.all_lines() if line.get("op") == "artifact"}
        folders = set()
        for path in (self.files / name for name in names if stays_inside(self.files, name)):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            folders |= {folder for folder in path.parents if folder == self.files or self.files in folder.parents}
        for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
            with contextlib.suppress(OSError):  # another file is in it, or it is gone
                folder.rmdir()

    def all_lines(self) -> Iterator[Json]:
        """Yield every whole line of the journal, sent or not."""
        offset = 0
        with self.path.open("rb") as file:
            for raw in file:
                if raw.endswith(b"\n"):
                    yield from self._read(raw, offset)
                offset += len(raw)

    def _read(self, raw: bytes, offset: int) -> list[Json]:
        """Return the record of the line that begins at `offset`; where it is damaged, with a warning, those that stand whole in it."""
        try:
            return [decode(raw)]
        except ValueError as error:
            reason = error
        records = list(salvaged(raw))
        if offset not in self._damaged:
            self._damaged.add(offset)
            with self.path.open("rb") as file:
                number = file.read(offset).count(b"\n") + 1
            also = f"; {len(records)} whole records in it are kept" if records else ""
            log.warning("%s, line %d is damaged (%s) and is left out%s.", self.path, number, reason, also)
        return records

    def rename(self, run_id: str) -> None:
        """Make this the journal of another run, to which all of it is to be sent."""
        self._sent_path.unlink(missing_ok=True)
        if self.files.is_dir():
            self.files.rename(self.path.with_name(run_id))
        self.path.rename(self.path.with_name(f"{run_id}.jsonl"))
        self.path, self.files = self.path.with_name(f"{run_id}.jsonl"), self.path.with_name(run_id)
        self._sent_path, self._sent = self.path.with_suffix(".sent"), 0

    @staticmethod
    def _unwritable(path: Path, error: BaseException) -> BitfrontError:
        return BitfrontError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}; free some space there, then resume the sweep."
        )

    def release(self, *, remove: bool) -> None:
        """Let go of the spool; `remove` deletes it first, once MLflow has everything."""
        if remove:
            self._remove_artifacts()
            self._sent_path.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
        os.close(self._handle)
        self._handle = -1
