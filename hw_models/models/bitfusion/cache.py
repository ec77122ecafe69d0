"""Schedules of one layer shape for every pair of stored bits, kept in memory and, by hash, in the user's cache folder."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache, lru_cache
from itertools import product
from pathlib import Path

from hw_models.models.bitfusion import machine, search
from hw_models.models.bitfusion.machine import Array, LayerWorkload
from hw_models.models.bitfusion.search import FIELDS, schedule
from quant_core.util.errors import InputError
from quant_core.util.files import cache_folder, write_text

Pair = tuple[int, int]


@cache
def _code_hash() -> str:
    """Return the hash of the modules that compute a schedule: a changed model never reads the schedules of another one."""
    files = (machine.__file__, search.__file__)
    return hashlib.sha256(b"".join(Path(str(file)).read_bytes() for file in files)).hexdigest()


def cache_path(array: Array, workload: LayerWorkload, widest: int) -> Path:
    """Return the file of one array, layer shape and widest operand."""
    key = json.dumps([_code_hash(), asdict(array), asdict(workload), widest])
    return cache_folder() / "bitfusion" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


@lru_cache(maxsize=4096)
def schedules(array: Array, workload: LayerWorkload, widest: int) -> Mapping[Pair, tuple[int, ...]]:
    """Return (activation bits, weight bits) -> the figures `search.FIELDS`, for every pair of stored bits from 1 to `widest`.

    Raises:
        InputError: not even the smallest tile of the workload fits the buffers.
    """
    path = cache_path(array, workload, widest)
    pairs = list(product(range(1, widest + 1), range(1, widest + 1)))
    rows = _read(path, len(pairs))
    if rows is None:
        rows = [schedule(array, workload, a, w) for a, w in pairs]
        with contextlib.suppress(InputError):  # a cache that cannot be written only costs time
            write_text(path, json.dumps(rows))
    return dict(zip(pairs, rows, strict=True))


def _read(path: Path, count: int) -> list[tuple[int, ...]] | None:
    """Return the cached rows, or None where there are none or the file is damaged."""
    try:
        rows = [tuple(int(value) for value in row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, OverflowError, RecursionError):
        return None
    return rows if len(rows) == count and all(len(row) == len(FIELDS) for row in rows) else None
