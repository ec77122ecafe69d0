"""KEY=VALUE of the command line: one way to split it, and one to read a value."""

import tomllib
from collections.abc import Iterable

from quant_core.util.errors import InputError


def key_value(text: str, name: str, form: str, example: str) -> tuple[str, str]:
    """Split `KEY=VALUE` at its first equals sign; blanks around both are dropped.

    Args:
        text: as it was typed.
        name: of what it is, for the message: "override", "budget", ...
        form: of the whole, for the message: "METRIC=LIMIT".
        example: of one that is right.

    Raises:
        InputError: there is no equals sign, or nothing before it.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"{name} {text!r} is not of the form {form}, for example {example}.")
    return key.strip(), value.strip()


def toml_value(text: str) -> object:
    """Return a value that is written as in TOML (`3`, `"a"`, `[1, 2]`); text that is no TOML is returned as it is."""
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return table["value"] if len(table) == 1 else text  # several lines are no value


def task_options(texts: Iterable[str]) -> dict[str, object]:
    """Return the options of a task from `key=value` texts; values are TOML, or plain text where they are not.

    Raises:
        InputError: as `key_value`.
    """
    pairs = (key_value(text, "task option", "key=value", "seed=1") for text in texts)
    return {key: toml_value(value) for key, value in pairs}
