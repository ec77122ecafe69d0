"""The examples of the task `hf`: rows of a file, of the files of a folder, or of a data set of the library datasets."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant_core.util.errors import InputError
from quant_core.util.text import listed
from search.tasks.hf.kinds import Kind
from search.tasks.splits import SPLIT_NAMES

Row = Mapping[str, Any]
Columns = Mapping[str, str | int]
SUFFIXES = (".txt", ".tsv", ".csv", ".jsonl")


@dataclass(frozen=True)
class Table:
    """Rows with named parts, read when they are asked for.

    Attributes:
        name: for messages.
        source: a file, or rows that are there already.
        columns: part -> column, its name or (without a header) its position.
        lines: it is plain text.
    """

    name: str
    source: Path | Sequence[Row]
    columns: Columns
    lines: bool = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the parts of every row.

        Raises:
            InputError: the file cannot be read, or a row has no such column.
        """
        try:
            for number, row in enumerate(self._raw(), 1):
                yield {part: self._part(row, column, number) for part, column in self.columns.items()}
        except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
            raise InputError(f"{self.name} cannot be read: {error}; UTF-8 {listed(SUFFIXES)} files are read.") from error

    def _part(self, row: Row, column: str | int, number: int) -> Any:
        value = row.get(str(column))
        if value is None:
            raise InputError(f"row {number} of {self.name} has no column {column!r}, but {listed(row) or 'none'}; mend or remove the row.")
        return value

    def _raw(self) -> Iterator[Row]:
        return _file_rows(self.source, self._positions()) if isinstance(self.source, Path) else iter(self.source)

    def _positions(self) -> bool:
        """Tell whether columns are named by position: there is no header."""
        return any(isinstance(column, int) for column in self.columns.values())


def tables(data: str, kind: Kind, columns: Columns, download: bool) -> dict[str, Table]:
    """Return split ("train", "valid", "test"; "" for data that is not split) -> table.

    Args:
        data: a file, a folder with one file or with files train, valid (val, dev) and test, or the name of a data set, perhaps with a
            configuration behind a colon.
        kind: decides which columns there must be.
        columns: part -> column, where the names differ from the usual ones.
        download: a data set may be downloaded.

    Raises:
        InputError: there is no such data, or its columns are not those of the kind.
    """
    path = Path(data).expanduser()
    if path.is_file():
        return {"": _file_table(path, kind, columns)}
    if not path.is_dir():
        return {split: _table(f"{split} of {data}", rows, kind, columns) for split, rows in _data_set(data, download).items()}
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise InputError(f"data = {data!r} holds no file that ends in {listed(SUFFIXES)}.")
    by_stem = {file.stem.lower(): file for file in files}
    named = {split: next((by_stem[name] for name in names if name in by_stem), None) for split, names in SPLIT_NAMES.items()}
    if named["valid"] is not None:
        return {split: _file_table(file, kind, columns) for split, file in named.items() if file is not None}
    if len(files) > 1:
        raise InputError(f"data = {data!r} holds {listed(file.name for file in files)}; name them train, valid and test, or give one.")
    return {"": _file_table(files[0], kind, columns)}


def _file_table(path: Path, kind: Kind, columns: Columns) -> Table:
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"data {path} given; files that end in {listed(SUFFIXES)} are read.")
    if path.suffix.lower() == ".txt":
        if set(kind.columns) != {"text"}:
            raise InputError(
                f"data {path} is plain text, and {kind.name!r} needs the columns {listed(kind.columns)}: give a .csv, .tsv, .jsonl."
            )
        return Table(str(path), path, {"text": "text"}, lines=True)
    return _table(str(path), path, kind, columns)


def _table(name: str, source: Path | Sequence[Row], kind: Kind, columns: Columns) -> Table:
    """Return a table whose columns are those that the user names, or the usual ones that it has.

    Raises:
        InputError: a part has no column.
    """
    unknown = sorted(set(columns) - set(kind.columns))
    if unknown:
        raise InputError(f"columns names {listed(unknown)}; {kind.name!r} takes the parts {listed(kind.columns)}.")
    first = next(iter(Table(name, source, columns)._raw()), None)
    if first is None:
        raise InputError(f"{name} has no rows.")
    chosen: dict[str, str | int] = {}
    for part, usual in kind.columns.items():
        wanted = (str(columns[part]),) if part in columns else usual
        column = next((name for name in wanted if name in first and name not in map(str, chosen.values())), None)
        if column is not None:
            chosen[part] = columns.get(part, column)
        elif part in columns or part not in kind.optional:
            raise InputError(
                f"{name} has the columns {listed(first)}, and none of {listed(wanted)} for the {part} of {kind.name!r}: give "
                f"columns = {{ {part} = 'NAME' }}, or its position where there is no header."
            )
    return Table(name, source, chosen)


def _file_rows(path: Path, positions: bool) -> Iterator[Row]:
    """Yield the rows of a file as mappings; by position where it has no header."""
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix.lower() == ".txt":
            yield from ({"text": line} for line in file)
        elif path.suffix.lower() == ".jsonl":
            for line in filter(str.strip, file):
                row = json.loads(line)
                yield row if isinstance(row, dict) else {}
        else:
            tabs = path.suffix.lower() == ".tsv"
            reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(file)
            header = None if positions else next(reader, None)
            for cells in filter(None, reader):
                yield dict(zip(header or map(str, range(len(cells))), cells, strict=False))


def _data_set(data: str, download: bool) -> dict[str, Sequence[Row]]:
    """Return split -> rows of a data set of the library datasets.

    Raises:
        InputError: there is none of that name, or the library is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"data = {data!r}: there is no such file or folder; for the name of a data set, pip install datasets.") from error
    name, _, configuration = data.partition(":")
    try:
        held = datasets.load_dataset(
            name, configuration or None, download_config=datasets.DownloadConfig(local_files_only=not download, disable_tqdm=not download)
        )
    except Exception as error:
        advice = "give another name" if download else "give a file or a folder, or download = true for a data set of the hub"
        text = str(error).strip().partition("\n")[0]
        raise InputError(f"data = {data!r} cannot be loaded ({type(error).__name__}: {text}); {advice}.") from error
    splits = {split: next((held[name] for name in names if name in held), None) for split, names in SPLIT_NAMES.items()}
    if splits["valid"] is None and splits["train"] is not None:
        return {"": splits["train"]} if splits["test"] is None else {"": splits["train"], "test": splits["test"]}
    return {split: rows for split, rows in splits.items() if rows is not None}
