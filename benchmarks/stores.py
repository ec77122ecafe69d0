"""Stores of benchmarks, a line of JSON per measured row: what is there is not measured again. Tables between two markers of a page."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from quant_core.util.files import write_text

END = "<!-- end of tables -->"
Row = TypeVar("Row")


def rows(store: Path) -> list[dict[str, Any]]:
    """Return the rows of a store, none where there is no file, without a last line that was cut short."""
    read = []
    for line in store.read_text().splitlines() if store.is_file() else ():
        try:
            read.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return read


def recorded(store: Path, kind: Callable[..., Row]) -> list[Row]:
    """Return the rows of a store as objects of a dataclass."""
    return [kind(**row) for row in rows(store)]


def append(store: Path, row: Any) -> None:
    """Add a row, an object of a dataclass, to a store, on a line of its own."""
    store.parent.mkdir(parents=True, exist_ok=True)
    cut = store.is_file() and not store.read_text().endswith("\n") and store.stat().st_size
    with store.open("a") as file:
        file.write(("\n" if cut else "") + json.dumps(asdict(row)) + "\n")


def write_tables(page: Path, start: str, tables: str) -> None:
    """Write tables between the marker `start` of a page and the one of their end."""
    text = page.read_text()
    write_text(page, text[: text.index(start)] + f"{start}\n\n{tables}\n\n" + text[text.index(END) :])
