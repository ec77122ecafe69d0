"""Names of layers in C source: unique identifiers, string literals and comments that no name can break out of."""

import re
from collections.abc import Sequence

_PLAIN = re.compile(r"[A-Za-z0-9_]*")


def identifiers(names: Sequence[str]) -> list[str]:
    """Return a part of a C identifier for every name, each of its own: a letter, digit or underscore stays, all else becomes one.

    Names that need no change keep their own; of others that would be equal, later ones get a number. They stand behind `bitfront_`, so
    that digits may come first and no keyword of C can be met.
    """
    taken = {name for name in names if _PLAIN.fullmatch(name)}
    parts = []
    for name in names:
        part = name
        if not _PLAIN.fullmatch(name):
            stem, number = re.sub(r"[^A-Za-z0-9_]", "_", name), 1
            part = stem
            while part in taken:
                number += 1
                part = f"{stem}_{number}"
            taken.add(part)
        parts.append(part)
    return parts


def string(text: str) -> str:
    """Return a C string literal of the UTF-8 bytes of `text`, in ASCII: all but letters, digits and plain punctuation in octal."""
    return '"' + "".join(_escaped(byte) for byte in text.encode("utf-8", "surrogatepass")) + '"'


def _escaped(byte: int) -> str:
    plain = 32 <= byte < 127 and chr(byte) not in '"\\?'  # two question marks begin a trigraph
    return chr(byte) if plain else f"\\{byte:03o}"


def comment(text: str) -> str:
    """Return `text` on one line of ASCII that neither opens nor ends a comment."""
    line = "".join(char if 32 <= ord(char) < 127 and char != "\\" else "?" for char in text)
    return line.replace("*/", "* /").replace("/*", "/ *").replace("*/", "* /")
