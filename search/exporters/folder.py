"""The folder of an export: it appears whole or not at all, and replacing it removes nothing but the files of the export before."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quant_core.util.errors import InputError

REPORT = "export.json"
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
        folder = Path(private) / "export"
        folder.mkdir()
        yield folder


def put_in_place(folder: Path, out: Path) -> None:
    """Move the finished folder to `out`; an older export is replaced, or stays where that fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.exists():
        folder.rename(out)
        return
    old = folder.with_name("old")
    out.rename(old)
    try:
        folder.rename(out)
    except OSError:
        old.rename(out)
        raise


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
