"""Lines of the journal: JSON with a checksum, so that damage is told from what was written. Free of mlflow."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from search.tracking.codec import MAX_BYTES, Json, dumps

_END = re.compile(rb',"crc":"([0-9a-f]{8})"\}')
_END_BYTES = 18
_BEGIN = b'{"op":'
_TRIES = 100
"""How many beginnings of a record are tried inside one damaged line."""


def encode(line: Json) -> bytes:
    """Return a record as one line whose last entry is the CRC-32 of everything before it."""
    body = dumps(line).encode()[:-1]
    return body + b',"crc":"%08x"}\n' % crc32(body)


def decode(raw: bytes) -> Json:
    """Return the record of a whole line; a line without a checksum, as older versions wrote it, is taken as it is.

    Raises:
        ValueError: the line is damaged, or no record.
    """
    if len(raw) > MAX_BYTES:
        raise ValueError(f"longer than {MAX_BYTES} bytes")
    text = raw.rstrip(b"\r\n")
    end = _END.fullmatch(text[-_END_BYTES:])
    if end and int(end[1], 16) != crc32(text[:-_END_BYTES]):
        raise ValueError("its checksum does not fit")
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(type(error).__name__) from None
    if not isinstance(line, dict) or not is_sound(line):
        raise ValueError("no record")
    return {key: value for key, value in line.items() if key != "crc"} if end else line


def salvaged(raw: bytes) -> Iterator[Json]:
    """Yield the records that stand whole in a damaged line, as their checksums show: a lost line end leaves two in one line."""
    start = tries = 0
    for end in _END.finditer(raw):
        begin = raw.find(_BEGIN, start, end.start())
        while begin >= 0 and tries < _TRIES:
            tries += 1
            if crc32(raw[begin : end.start()]) == int(end[1], 16):
                start = end.end()
                with contextlib.suppress(ValueError):
                    yield decode(raw[begin:start])
                break
            begin = raw.find(_BEGIN, begin + 1, end.start())


def is_inside(name: str) -> bool:
    """Tell whether a relative path stays in the folder that it starts from."""
    path = Path(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def is_sound(line: Json) -> bool:
    """Tell whether a line holds what its readers take from it without asking."""
    kind = line.get("op")
    if kind == "tags":
        tags = line.get("tags")
        return isinstance(tags, dict) and all(isinstance(text, str) for text in tags.values())
    if kind == "artifact":
        return isinstance(line.get("name"), str) and is_inside(line["name"])
    if kind in ("front", "check"):
        return isinstance(line.get("knee"), int) and isinstance(line.get("front"), list) and isinstance(line.get("headline", {}), dict)
    if kind == "trial":
        return isinstance(line.get("trial"), dict)
    return kind != "status" or isinstance(line.get("status"), str)


def note(run_id: str, offset: int) -> str:
    """Return the text of a `.sent` file: how many bytes MLflow has, and a checksum."""
    return f"{offset} {crc32(f'{run_id}:{offset}'.encode()):08x}"


def noted(run_id: str, text: str) -> int:
    """Return the bytes that a `.sent` file names; without a checksum, as older versions wrote it, it is taken as it is.

    Raises:
        ValueError: the text is damaged.
    """
    words = text.split()
    if len(words) not in (1, 2):
        raise ValueError(f"{len(words)} words")
    offset = int(words[0])
    if len(words) == 2 and text.strip() != note(run_id, offset):
        raise ValueError("its checksum does not fit")
    return offset
