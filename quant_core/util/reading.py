"""JSON and TOML from outside: read in bounded depth and size, and whatever is wrong with them is one `InputError`."""

import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quant_core.util.errors import InputError
from quant_core.util.text import cut, given

DEEPEST = 64
"""Tables and lists within each other; no file of ours has more than 10."""
LARGEST_JSON = 64 * 2**20
"""Bytes: a policy of 100,000 layers takes 15 MB."""
LARGEST_TOML = 4 * 2**20
_DOTTED = re.compile(rf"(?<![A-Za-z0-9_-])(?:[A-Za-z0-9_-]+[ \t]*\.[ \t]*){{{DEEPEST + 1}}}")
_TOO_DEEP = f"{{}}: more than {DEEPEST} tables or lists within each other; no such file needs them."


def read_text(path: Path, limit: int = LARGEST_JSON) -> str:
    """Return the UTF-8 text of a file of `limit` bytes at most.

    Raises:
        InputError: it cannot be read, is too large, or is no text.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: cannot be read: it is no file.")
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise InputError(f"{path} has more than {limit} bytes, more than any such file; it is damaged, or another file.")
        return data.decode()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as text: {error.reason} at byte {error.start}.") from None


def read_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        InputError: as `read_text` and `parse_json`.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, place: str) -> Any:
    """Return the value of a JSON text; duplicate keys, NaN, numbers too large for a float, and deep nesting are refused.

    Raises:
        InputError: the text is none of ours; `place` is in the message.
    """
    try:
        return check_depth(json.loads(text, object_pairs_hook=_table, parse_constant=_constant, parse_float=_number), place)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not JSON: {_reason(error)}.") from None


def parse_toml(text: str, place: str) -> dict[str, Any]:
    """Return the table of a TOML text; deep nesting is refused.

    Raises:
        InputError: the text is none of ours; `place` is in the message.
    """
    if _DOTTED.search(text):  # which tomllib reads in a time that grows with their square
        raise InputError(_TOO_DEEP.format(place))
    try:
        table: dict[str, Any] = check_depth(tomllib.loads(text), place)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not TOML: {_reason(error)}") from None
    return table


def check_depth(value: Any, place: str) -> Any:
    """Return a value of plain data; one with more than 64 tables and lists within each other is refused.

    Raises:
        InputError: it is nested too deeply.
    """
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _parts(outer) if isinstance(inner, dict | list)]
        if not level:
            return value
    raise InputError(_TOO_DEEP.format(place))


def _parts(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else cut(str(error), 300)


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise InputError(f"key {given(twice)} stands twice in one JSON object; keep one of them.")
    return table


def _constant(text: str) -> float:
    raise InputError(f"{text} given in JSON; a finite number is needed.")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InputError(f"{cut(text)} given in JSON; it is too large for a float.")
    return value
