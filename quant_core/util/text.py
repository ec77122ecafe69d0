"""Text for people: names and messages from outside made printable and short, so that they cannot steer a terminal or flood it."""

import unicodedata
from collections.abc import Iterable, Sequence
from itertools import islice

SHOWN = 10
"""How many names a message lists before it counts the rest."""
LONGEST = 120
"""Characters of one name in a list."""
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that are never printed as they are: controls, formats (bidirectional overrides), surrogates, line separators."""


def printable(text: str, limit: int = 0) -> str:
    r"""Return a text in which every character but a newline can be seen: ESC becomes `\x1b`; cut to `limit` characters (0: never).

    >>> printable("a\x1b[31m\u202eb")
    'a\\x1b[31m\\u202eb'
    >>> printable("abcdef", 3)
    'abc... and 3 more characters'
    """
    rest = len(text) - limit if limit else 0
    shown = text[:limit] if rest > 0 else text
    if not (shown.isascii() and shown.isprintable()):
        shown = "".join(character if character == "\n" or not _hidden(character) else _escaped(character) for character in shown)
    return f"{shown}... and {rest} more characters" if rest > 0 else shown


def listed(names: Iterable[object], limit: int = SHOWN) -> str:
    """Return names joined by commas: the first `limit` of them, each cut to 120 characters, and how many more there are.

    >>> listed(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    rest = iter(names)
    text = ", ".join(cut(str(name)) for name in islice(rest, limit))
    more = sum(1 for _ in rest)
    return f"{text} and {more} more" if more else text


def first_fault(faults: Sequence[str]) -> str:
    """Return the first fault of several layers, and how many layers more have one.

    >>> first_fault(["layer 'a': k-means", "layer 'b': k-means"])
    "layer 'a': k-means (and 1 more layer)"
    """
    more = len(faults) - 1
    return faults[0] + (f" (and {more} more layer{'s' * (more > 1)})" if more else "")


def cut(text: str, limit: int = LONGEST) -> str:
    """Return a text that is at most a little longer than `limit`: its start and `...`.

    >>> cut("abcdef", 3)
    'abc...'
    """
    return text if len(text) <= limit else f"{text[:limit]}..."


def shortened(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters, with the middle left out: its end tells layers apart as often as its start.

    >>> shortened("blocks.3.0.depthwise", 14)
    'block...thwise'
    """
    if len(text) <= limit:
        return text
    start = max(1, (limit - 3) // 2)
    return f"{text[:start]}...{text[len(text) - max(1, limit - 3 - start) :]}"


def given(value: object, limit: int = LONGEST) -> str:
    """Return the `repr` of a value that was given, cut as `cut` does; text and lists are cut before they are written out.

    >>> given("a" * 1000, 5)
    "'aaaaa..."
    """
    if isinstance(value, str | bytes):
        return cut(repr(value[: limit + 1]), limit + 1)
    try:
        return cut(repr(value), limit)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of more digits than Python writes
        return f"a {type(value).__name__}"


def _hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
