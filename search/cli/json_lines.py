"""`--log json`: everything on standard error is one JSON object per line, warnings and log records too."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from quant_core.util.text import printable
from search.cli.terminal import LONGEST, say


class _JsonHandler(logging.Handler):
    """Prints a log record as a JSON line."""

    def emit(self, record: logging.LogRecord) -> None:
        say_json({"level": record.levelname.lower(), "message": printable(record.getMessage(), LONGEST)})


def say_json(entry: dict[str, object]) -> None:
    """Print one JSON line on standard error."""
    say(json.dumps(entry), stderr=True)


@contextmanager
def json_lines(log: str) -> Iterator[None]:
    """Print warnings and log records within the block as JSON lines, where `log` is "json"."""
    if log != "json":
        yield
        return

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        say_json({"level": "warning", "category": category.__name__, "message": printable(str(message), LONGEST)})

    handler, root = _JsonHandler(logging.WARNING), logging.getLogger()
    root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        root.removeHandler(handler)
