"""Starts the compiled loops: rows shared out to as many threads as torch uses, values checked for NaN and infinity on the way."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from quant_core.util.errors import InputError

_INFINITY_BITS = 0x7F800000
PER_THREAD = 1 << 17
_ROW = 4096


def over_rows(loop: Callable[..., object], x: NDArray[Any], *rest: object, per_thread: int = PER_THREAD) -> list[object]:
    """Call `loop(x, first_row, last_row, *rest)` for slices of the rows of `x`; return the results of the calls.

    As many slices run at once as torch uses threads, each of `per_thread` elements or more.
    """
    threads = max(1, min(torch.get_num_threads(), x.size // per_thread, len(x)))
    edges = [len(x) * i // threads for i in range(threads + 1)]
    if threads == 1:
        return [loop(x, 0, len(x), *rest)]
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(loop, x, first, last, *rest) for first, last in itertools.pairwise(edges)]
        return [job.result() for job in jobs]


def write(loop: Callable[..., object], rows: Tensor, out: Tensor, *rest: object) -> None:
    """Call `loop(x, first, last, out, *rest)` over all rows.

    Raises:
        InputError: a value is NaN or infinite; `out` is then without meaning.
    """
    _require_finite(over_rows(loop, rows.numpy(), out.numpy(), *rest), rows)


def _require_finite(worst: list[object], rows: Tensor) -> None:
    """Raise where the largest of float bits is that of no finite number."""
    if max(int(bits) for bits in worst) >= _INFINITY_BITS:  # type: ignore[call-overload]
        raise not_finite(rows)


def rebalance_rows(rows: Tensor, block: int) -> Tensor:
    """Return `rows` as rows of about 4096 elements with the same blocks, for cache and threads; as they are where blocks are short."""
    if rows.shape[1] % block:
        return rows
    blocks = rows.numel() // block
    per_row = max(1, min(_ROW // block, blocks))
    while blocks % per_row:
        per_row -= 1
    return rows.view(-1, per_row * block)


def block_amax(rows: Tensor, block: int) -> Tensor:
    """Return [R, B], the largest magnitude of every block of contiguous float32 rows on the CPU.

    Raises:
        InputError: a value is NaN or infinite.
    """
    from quant_core.kernels import fused

    amax = torch.empty(len(rows), -(-rows.shape[1] // block))
    over_rows(fused.block_amax, rows.numpy(), block, amax.numpy())
    if not bool(torch.isfinite(amax).all()):
        raise not_finite(rows)
    return amax


def block_minmax(rows: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Return (low, high), [R, B] each: the smallest and largest value of every block, widened to hold 0; rows as for `block_amax`.

    Raises:
        InputError: a value is NaN or infinite.
    """
    from quant_core.kernels import ranged

    low, high = (torch.empty(len(rows), -(-rows.shape[1] // block)) for _ in range(2))
    _require_finite(over_rows(ranged.block_minmax, rows.numpy(), block, low.numpy(), high.numpy()), rows)
    return low, high


def not_finite(rows: Tensor) -> InputError:
    """Return the error for values that are not finite as float32, with how many."""
    nans, infinite = int(torch.isnan(rows).sum()), int(torch.isinf(rows).sum())
    return InputError(f"{nans} NaN and {infinite} infinite of {rows.numel()} values (as float32); quantization needs finite values.")
