"""The cache folder, and writing files whole or not at all: under a temporary name beside the target, then renamed."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from quant_core.util.errors import InputError

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def cache_folder() -> Path:
    """Return the folder of files that can be made again: `BITFRONT_CACHE`, else the user's cache folder of the platform."""
    folder = os.environ.get("BITFRONT_CACHE")
    return Path(folder).expanduser() if folder else Path(platformdirs.user_cache_dir("bitfront", appauthor=False))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a new, empty file beside `path`, to be written by its name; it takes the place of `path` when the block ends well.

    Its name cannot be guessed and the file is made by this call, never a link or a file of somebody else's. Its bytes are on the disk
    before the rename. When the block fails, the file is removed and `path` is as it was. Folders are made as needed.

    Raises:
        InputError: the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, _CREATE, 0o666))
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}. Give a place that can be written.") from error


def require_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before the work that fills it; the folders that are missing above it are not made.

    Raises:
        InputError: the nearest folder above it is none, or takes no files.
    """
    above = next(place for place in path.absolute().parents if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK) or path.is_dir():
        reason = f"{path} is a folder" if path.is_dir() else f"{above} is {'not writable' if above.is_dir() else 'a file'}"
        raise InputError(f"cannot write {path}: {reason}. Give a place that can be written.")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, as `replacing` does.

    Raises:
        InputError: the place cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as `write_bytes` does."""
    write_bytes(path, text.encode())
