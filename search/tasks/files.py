"""The user's data files: found, and checked to be whole. Nothing is ever downloaded."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from quant_core.errors import InputError

VARIABLE = "BITFRONT_DATA"


def locate(dataset: str, path: str | None, names: Sequence[str], advice: str) -> Path:
    """Return the folder that holds all of `names`.

    Args:
        dataset: its name, also the name of its folder under `path` or BITFRONT_DATA.
        path: a folder that holds the files or a folder `dataset` with them; None means the environment variable BITFRONT_DATA.
        names: the files that must be there.
        advice: where the user gets them, the end of the message.

    Raises:
        InputError: no path, or files are missing; the message says what to put where.
    """
    given = path or os.environ.get(VARIABLE)
    wanted = f"{dataset}: put {', '.join(names)} into one folder, and give that folder or the one above it as option path or in {VARIABLE}"
    if not given:
        raise InputError(f"no path to the data. {wanted}. {advice}")
    root = Path(given).expanduser()
    for folder in (root, root / dataset):
        if all((folder / name).is_file() for name in names):
            return folder
    places = " nor ".join(str(folder) for folder in (root, root / dataset))
    missing = [name for name in names if not (root / name).is_file() and not (root / dataset / name).is_file()]
    raise InputError(f"data not found: neither {places} holds {', '.join(missing or names)}. {wanted}. {advice}")


def verified(path: Path, md5: str) -> bytes:
    """Return the bytes of a file whose MD5 is `md5`.

    Raises:
        InputError: the file is another one, or damaged.
    """
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise InputError(f"{path} ({len(content)} bytes) is damaged or not the official file: MD5 {found}, expected {md5}. Get it again.")
    return content
