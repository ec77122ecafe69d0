"""Layers from a CSV of shapes, so that a network can be costed without loading torch.

Columns (others are ignored): `index` or `layer` (the name), `kind`, `in_channels`, `out_channels`, `kernel`, `in_size`, and
optionally `stride` (1), `out_size` (in_size / stride, rounded up), `groups` (1; depthwise: in_channels). Square kernels and maps.
"""

import csv
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from quant_core.spec.layer import KINDS, Layer
from quant_core.util.errors import InputError
from quant_core.util.text import listed


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file.

    Raises:
        InputError: there is no such file, it is no text, or it holds no rows.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader((line for line in stream if not line.startswith("#")), skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}.") from None
    if not rows:
        raise InputError(f"{path}: no rows; a header line and one row per figure are needed.")
    return rows


def need_columns(rows: list[dict[str, str]], columns: Iterable[str], path: Path) -> None:
    """Refuse rows that lack a column.

    Raises:
        InputError: naming the missing columns.
    """
    missing = [column for column in columns if column not in rows[0]]
    if missing:
        raise InputError(f"{path}: columns {listed(missing)} are missing; given: {listed(rows[0])}.")


def need_whole(rows: list[dict[str, str]], columns: Iterable[str], path: Path, least: int = 1) -> None:
    """Refuse rows whose `columns` are no whole numbers of at least `least`.

    Raises:
        InputError: naming the row (the first is 1), the column and its content.
    """
    for number, row in enumerate(rows, 1):
        for name in columns:
            if not str(row[name]).isdecimal() or int(row[name]) < least:
                raise InputError(f"{path}: row {number}: {name} is {row[name]!r}; a whole number from {least} is needed.")


def figure(row: Mapping[str, str], column: str, path: Path) -> float:
    """Return a positive number from a row.

    Raises:
        InputError: it is not there or is no positive number.
    """
    try:
        number = float(row[column] or "nan")
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise InputError(f"{path}: {column} is {row[column]!r} in row {dict(row)}; a positive number is needed.")
    return number


def layer_of(row: Mapping[str, str]) -> Layer:
    """Return the layer that a row describes.

    Raises:
        InputError: an unknown kind, or a size that is no whole number.
    """
    kind = row["kind"]
    if kind not in KINDS:
        raise InputError(f"row {dict(row)}: kind {kind!r}; legal: {listed(KINDS)}.")
    try:
        ci, co, k, size = (int(row[key]) for key in ("in_channels", "out_channels", "kernel", "in_size"))
        stride = int(row.get("stride") or 1)
        groups = ci if kind == "depthwise" else int(row.get("groups") or 1)
        out = int(row.get("out_size") or -(-size // stride))
    except (TypeError, ValueError) as error:
        raise InputError(f"row {dict(row)}: {error}.") from None
    name = row.get("layer") or row.get("index") or f"{kind}_{ci}_{co}_{k}_{size}"
    if kind in ("linear", "embedding"):
        macs = ci * co * size if kind == "linear" else 0
        return Layer(name, kind, ci, co, (co, ci), (size,), (size,), macs)
    macs = out * out * co * ci // groups * k * k
    shape = (co, ci // groups, k, k)
    return Layer(name, kind, ci, co, shape, (size, size), (out, out), macs, (k, k), (stride, stride), (1, 1), groups)


def shape_of(layer: Layer) -> tuple[object, ...]:
    """Return the shape of a layer as a key: layers with equal keys cost the same."""
    return layer.kind, layer.in_channels, layer.out_channels, layer.kernel, layer.stride, layer.in_size, layer.out_size, layer.groups


def read_layers(path: Path) -> tuple[Layer, ...]:
    """Return the distinct layers of a CSV file, in order.

    Raises:
        InputError: the file is missing, lacks columns, or holds a row that is no layer.
    """
    rows = read_rows(path)
    need_columns(rows, ("kind", "in_channels", "out_channels", "kernel", "in_size"), path)
    return tuple({layer.name: layer for layer in map(layer_of, rows)}.values())
