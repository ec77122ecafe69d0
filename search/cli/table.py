"""Tables that fit the terminal: no word is cut; columns that do not fit are left out, by their rank, and named below the table."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.table import Table

from quant_core.util.text import listed, printable, shortened
from search.cli.terminal import NAME_LIMIT, terminal

SHORTEST_NAME = 18
"""Characters that stay of a long name when columns compete."""
SHORTEST_TEXT = 24
_EDGES = 2


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        title: its words stand below each other, the unit last; several columns may have one title.
        cells: a text per row.
        rank: the columns of the highest rank are left out first; those of rank 0 never.
        left: set to the left, as text; numbers are set to the right.
        name: cells are names, which may be shortened in the middle.
        text: cells are sentences, which go on in further lines.
    """

    title: str
    cells: tuple[str, ...]
    rank: int = 0
    left: bool = False
    name: bool = False
    text: bool = field(default=False, kw_only=True)

    @property
    def width(self) -> int:
        """Characters that it takes: the longest cell, or word of the title."""
        words = [*self.title.split(), *(word for cell in self.cells if self.text for word in cell.split())]
        widest = max(map(cell_len, self.cells), default=0)
        return max([min(widest, SHORTEST_TEXT) if self.text else widest, *map(cell_len, words)])


def fitted(columns: Sequence[Column], width: int) -> tuple[list[Column], list[Column]]:
    """Return the columns that fit a width, with names shortened where that helps, and those that are left out."""
    kept, hidden = [_clean(column) for column in columns], []
    while _total(kept) > width:
        names = sorted((column for column in kept if column.name and column.width > SHORTEST_NAME), key=lambda column: -column.width)
        pairs = ((column, _narrowed(column, column.width - 1)) for column in names)
        pair = next((pair for pair in pairs if pair[1].width < pair[0].width and _distinct(pair[1]) == _distinct(pair[0])), None)
        if pair is not None:
            kept[kept.index(pair[0])] = pair[1]
            continue
        last = max(kept, key=lambda column: column.rank)
        if not last.rank:
            break
        kept.remove(last)
        hidden.append(last)
    return _widened(kept, [_clean(column) for column in columns], width), hidden[::-1]


def _clean(column: Column) -> Column:
    limit = NAME_LIMIT if column.name else 0
    return replace(column, cells=tuple(shortened(printable(cell), limit) if limit else printable(cell) for cell in column.cells))


def _distinct(column: Column) -> int:
    """Return how many names are told apart."""
    return len(set(column.cells))


def _narrowed(column: Column, width: int) -> Column:
    """Return a column whose names are shortened in the middle."""
    return replace(column, cells=tuple(shortened(cell, width) for cell in column.cells))


def _widened(kept: Sequence[Column], whole: Sequence[Column], width: int) -> list[Column]:
    """Return the columns with names as long as the width that is left lets them be."""
    columns = list(kept)
    for i, column in enumerate(columns):
        if column.name:
            original = next(other for other in whole if other.title == column.title)
            columns[i] = _narrowed(original, max(column.width, min(original.width, column.width + width - _total(columns))))
    return columns


def _total(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + len(columns) - 1 + _EDGES


def print_table(title: str, columns: Sequence[Column], bold: Sequence[int] = (), *, stderr: bool = False) -> None:
    """Print a table, as wide as the terminal lets it be, and the columns that had to be left out.

    Args:
        title: above it.
        columns: with the same number of cells.
        bold: positions of rows that are marked.
        stderr: print it on standard error in place of standard output.
    """
    console = terminal(stderr=stderr)
    kept, hidden = fitted(columns, console.width)
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    fits = _total(kept) <= console.width
    for column in kept:
        justify: Literal["left", "right"] = "left" if column.left else "right"
        whole = fits and not column.text
        width = column.width if fits else None
        table.add_column("\n".join(_title_lines(column)), justify=justify, no_wrap=whole, overflow="fold", min_width=width)
    for i in range(len(kept[0].cells) if kept else 0):
        table.add_row(*(column.cells[i] for column in kept), style="bold" if i in bold else None)
    console.print(table)
    if hidden:
        names = listed(" ".join(column.title.split()) for column in hidden)
        console.print(f"not shown in {console.width} columns: {names} (a wider terminal or --json shows them)", soft_wrap=True)


def _title_lines(column: Column) -> list[str]:
    """Return the lines of a title: words together where they are no wider than the cells."""
    lines: list[str] = []
    for part in column.title.split("\n"):
        line = ""
        for word in part.split():
            if line and cell_len(line) + 1 + cell_len(word) > column.width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
        lines.append(line)
    return lines
