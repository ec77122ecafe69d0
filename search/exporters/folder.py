"""The folder of an export: it appears whole or not at all, and replacing it removes nothing but the files of the export before.

While it is written it lies in a scratch folder `.NAME.TOKEN.tmp` beside its place, whose file `lock` its writer holds: a free lock is
the sign of a dead writer, also where writers in two containers have one process id.
"""

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quant_core.util.errors import InputError

REPORT = "export.json"
LOCK, NEW, OLD = "lock", "export", "old"  # in a scratch folder; nothing else is ever in it
SHOWN = 5


def check_target(out: Path, force: bool) -> None:
    """Refuse a folder that cannot be made or replaced, before any work is done.

    Raises:
        InputError: `out` exists and `force` is not given, is no export, or holds files that no export wrote; or lies below a file.
    """
    if out.is_symlink() or (out.exists() and not force):
        raise InputError(f"{out} exists; give another folder, or --force to replace it.")
    if out.exists() and not (out / REPORT).is_file():
        raise InputError(f"{out} exists and is no export of bitfront (it has no {REPORT}); --force replaces exports only.")
    foreign = sorted(str(file) for file in files_in(out) - written_files(out)) if out.exists() else []
    if foreign:
        more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
        raise InputError(f"{out} holds files that no export wrote: {', '.join(foreign[:SHOWN])}{more}. Move them, or give another folder.")
    for parent in out.absolute().parents:
        if parent.exists() and not parent.is_dir():
            raise InputError(f"cannot write {out}: {parent} is a file. Give a folder that can be written.")


@contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """Make an empty folder beside `out`, on the same file system, under a name that nobody can guess; what is left of it is removed."""
    parent = next(folder for folder in out.absolute().parents if folder.is_dir())
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".tmp", dir=parent, ignore_cleanup_errors=True) as private:
        lock = _held(Path(private) / LOCK, os.O_CREAT | os.O_EXCL)
        try:
            folder = Path(private) / NEW
            folder.mkdir()
            yield folder
        finally:
            os.close(lock)


def put_in_place(folder: Path, out: Path) -> None:
    """Move the finished folder to `out`; an older export is replaced, or stays where that fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.exists():
        folder.rename(out)
        return
    old = folder.with_name(OLD)
    out.rename(old)
    try:
        folder.rename(out)
    except OSError:
        old.rename(out)
        raise


def restore(out: Path) -> None:
    """Set right what writers of `out` that were killed left: the export that one was replacing comes back, the rest is removed.

    A scratch folder that holds anything but what its writer puts there is left alone, and so is that of a writer that lives.
    Files of the export before are removed by the names in its report, and a folder that then holds others stays.
    """
    for scratch in sorted(out.absolute().parent.glob(f".{out.name}.*.tmp")):
        if scratch.is_symlink() or not {path.name for path in scratch.iterdir()} <= {LOCK, NEW, OLD}:
            continue
        with contextlib.suppress(OSError):  # a living writer holds the lock; a file of it may have another owner
            lock = _held(scratch / LOCK)
            try:
                if (scratch / OLD / REPORT).is_file() and not out.exists():
                    (scratch / OLD).rename(out)
                _remove(scratch)
            finally:
                os.close(lock)


def _held(path: Path, flags: int = 0) -> int:
    """Lock a file for this process; its name, as that of the folder, is a random token.

    Raises:
        OSError: it is absent, a link, or held by another process.
    """
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _remove(scratch: Path) -> None:
    """Remove a dead writer's scratch folder: its unfinished export as its own `TemporaryDirectory` would have, the one before by name."""
    with tempfile.TemporaryDirectory(prefix=f"{scratch.name}.", dir=scratch.parent, ignore_cleanup_errors=True) as private:
        if (scratch / NEW).is_dir():
            (scratch / NEW).rename(Path(private) / NEW)
    old, folders = scratch / OLD, {scratch / OLD}
    with contextlib.suppress(InputError):  # without a report nothing names its files: they stay
        for file in sorted(written_files(old) & files_in(old)) if old.is_dir() else ():
            (old / file).unlink()
            folders |= {old / parent for parent in file.parents}
    for folder in (*sorted(folders, reverse=True), scratch):
        with contextlib.suppress(OSError):  # a file of somebody else's is in it, or it is absent
            (scratch / LOCK).unlink() if folder == scratch and not old.exists() else None
            folder.rmdir()


def written_files(out: Path) -> set[Path]:
    """Return the files that the export in `out` says it wrote, relative to it.

    Raises:
        InputError: its report cannot be read.
    """
    try:
        report = json.loads((out / REPORT).read_text(encoding="utf-8"))
        files = [*report.get("files", ()), *(file for written in report["formats"].values() for file in written["files"])]
        return {Path(REPORT), *(Path(str(file)) for file in files)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{out / REPORT} is damaged ({type(error).__name__}); remove {out} by hand, or give another folder.") from None


def files_in(folder: Path) -> set[Path]:
    """Return every file in a folder and below, relative to it; links are files."""
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
