"""Schedules of one layer shape for every pair of stored bits, kept in memory and, by hash, in the user's cache folder."""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path

from hw_models.models.bitfusion.machine import Array, LayerWorkload
from hw_models.models.bitfusion.search import FIELDS, schedule
from quant_core.util.cache_key import cache_key
from quant_core.util.errors import InputError
from quant_core.util.files import cache_folder, write_text

Pair = tuple[int, int]


CODE = ("hw_models.models.bitfusion.machine", "hw_models.models.bitfusion.search")
"""Modules that compute a schedule: a changed model never reads the schedules of another one."""


def cache_path(array: Array, workload: LayerWorkload, widest: int) -> Path:
    """Return the file of one array, layer shape and widest operand."""
    return cache_folder() / "bitfusion" / f"{cache_key('bitfusion', CODE, array, workload, widest)}.json"


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
            write_text(path, json.dumps({"rows": rows, "sha256": _checksum(rows)}))
    return dict(zip(pairs, rows, strict=True))


def _read(path: Path, count: int) -> list[tuple[int, ...]] | None:
    """Return the cached rows, or None where there are none or the file is not as it was written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [tuple(int(value) for value in row) for row in content["rows"]]
        if content["sha256"] != _checksum(rows):
            return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    return rows if len(rows) == count and all(len(row) == len(FIELDS) for row in rows) else None


def _checksum(rows: Sequence[Sequence[int]]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
