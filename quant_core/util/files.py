"""Where files are kept, and writing them so that nothing is ever half-written: a temporary name beside the target, then a rename."""

import contextlib
import os
from pathlib import Path

import platformdirs

from quant_core.util.errors import InputError


def cache_folder() -> Path:
    """Return where what can be made again is kept: `BITFRONT_CACHE`, else the user's cache folder of the platform."""
    given = os.environ.get("BITFRONT_CACHE")
    return Path(given).expanduser() if given else Path(platformdirs.user_cache_dir("bitfront", appauthor=False))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; folders are made as needed.

    Raises:
        InputError: the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise InputError(f"cannot write {path}: {error.strerror}. Give a place that can be written.") from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as `write_bytes` does."""
    write_bytes(path, text.encode())
