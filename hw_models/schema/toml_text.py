"""Write plain data as TOML (the standard library only reads it), and find the line on which a key stands."""

import json
import re
from collections.abc import Mapping, Sequence

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r'^\s*("[^"]*"|[A-Za-z0-9_-]+)\s*=')
_BARE = re.compile(r"[A-Za-z0-9_-]+")

Path = tuple[str | int, ...]


def dumps(data: Mapping[str, object]) -> str:
    """Return `data` as TOML; `tomllib.loads(dumps(data)) == data`. None values are left out."""
    lines: list[str] = []
    _table(data, "", lines)
    return "\n".join(lines).strip() + "\n"


def _table(data: Mapping[str, object], prefix: str, lines: list[str]) -> None:
    tables = {key: value for key, value in data.items() if _is_table(value)}
    lines.extend(f"{_key(key)} = {_value(value)}" for key, value in data.items() if key not in tables and value is not None)
    for key, value in tables.items():
        name = f"{prefix}{_key(key)}"
        if isinstance(value, Mapping):
            lines.extend(("", f"[{name}]"))
            _table(value, f"{name}.", lines)
            continue
        for table in value:  # type: ignore[attr-defined]
            lines.extend(("", f"[[{name}]]"))
            lines.extend(f"{_key(k)} = {_value(v)}" for k, v in table.items() if v is not None)


def _is_table(value: object) -> bool:
    """Tell whether a value gets a header of its own: a table, or a list of tables."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return bool(value) and all(isinstance(item, Mapping) for item in value)
    return isinstance(value, Mapping)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + " }" if value else "{}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return repr(value)


def lines_of(text: str) -> dict[Path, int]:
    """Return key path -> line number (from 1) for the headers and the keys at the start of a line of a TOML text."""
    places: dict[Path, int] = {}
    counts: dict[str, int] = {}
    here: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        header, key = _HEADER.match(line), _KEY.match(line)
        if header:
            here = tuple(part.strip().strip('"') for part in header[2].split("."))
            if header[1] == "[[":
                counts[header[2]] = counts.get(header[2], -1) + 1
                here = (*here, counts[header[2]])
            places.setdefault(here, number)
        elif key:
            places.setdefault((*here, key[1].strip('"')), number)
    return places
