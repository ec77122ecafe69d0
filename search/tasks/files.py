"""The user's data files: found, and checked to be whole. Nothing is ever downloaded."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from quant_core.util.errors import InputError

VARIABLE = "BITFRONT_DATA"


@dataclass(frozen=True)
class Source:
    """The layout of a data set on disk.

    Attributes:
        name: of the data set, also of its folder.
        choices: sets of files, any of which will do.
        advice: where the user gets them; the end of every message.
        folders: further names that its folder may have.
    """

    name: str
    choices: tuple[tuple[str, ...], ...]
    advice: str
    folders: tuple[str, ...] = ()


def locate(source: Source, path: str | None) -> tuple[Path, tuple[str, ...]]:
    """Return the folder that holds one of the source's sets of files, and that set.

    Args:
        source: what is looked for.
        path: a folder that holds the files, or the folder above it; None means the environment variable BITFRONT_DATA.

    Raises:
        InputError: no path, or files are missing; the message says what to put where.
    """
    files = " or ".join(", ".join(names) for names in source.choices)
    wanted = f"Put {files} into a folder {source.name}, and give it or the folder above it as option path or in {VARIABLE}. {source.advice}"
    place = path or os.environ.get(VARIABLE)
    if not place:
        raise InputError(f"no path to the data of {source.name}. {wanted}")
    root = Path(place).expanduser()
    folders = [root, root / source.name, *(base / name for name in source.folders for base in (root, root / source.name))]
    for folder in folders:
        for names in source.choices:
            if all((folder / name).is_file() for name in names):
                return folder, names
    raise InputError(f"data of {source.name} not found: none of {', '.join(map(str, folders))} holds all of it. {wanted}")


def verified(path: Path, md5: str) -> bytes:
    """Return the bytes of a file whose MD5 is `md5`.

    Raises:
        InputError: the file is another one, or damaged.
    """
    content = path.read_bytes()
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if actual != md5:
        raise InputError(f"{path} ({len(content)} bytes) is damaged or not the official file: MD5 {actual}, expected {md5}. Get it again.")
    return content
