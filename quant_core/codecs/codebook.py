"""K-means codebooks (Han et al., ICLR 2016, section 3): 2^bits float32 centres per tensor, channel, or group of channels."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant_core.codecs import Bounds, Codec, Encoded, Field, code_field, no_bounds
from quant_core.codecs.blocks import block_amax
from quant_core.kernels import kmeans, run
from quant_core.spec.quant_spec import QuantSpec

EXACT_STEPS = 2**27
"""The exact optimum is computed up to so many steps (a second); they are books x k x n log2(n)."""
_ITERATIONS = 300
_SEEDS = 3
_SAMPLE = 1 << 15
_LLOYD_POINTS = 1 << 18
F64 = NDArray[np.float64]


def channels_per_book(spec: QuantSpec, rows: int) -> int:
    """Return how many output channels share a codebook."""
    return {"tensor": rows, "channel": 1, "group": min(spec.block, rows)}[spec.granularity]


def encode(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, generator: torch.Generator | None) -> Encoded:  # noqa: ARG001
    """Return codes [R, C] and codebooks [books, 2^bits], ascending. Deterministic; a value half-way takes the lower centre.

    With fewer distinct values than centres the values are the centres and the last is repeated.
    """
    no_bounds(spec, bounds)
    books, codes = [], []
    for part in _parts(rows, channels_per_book(spec, len(rows))):
        book = torch.from_numpy(centres(part.cpu().numpy(), 2**spec.bits)).to(torch.float32).to(rows.device)
        codes.append(torch.searchsorted(_edges(book), part.to(torch.float64)).to(torch.uint8).reshape(-1, rows.shape[1]))
        books.append(book)
    return Encoded(torch.cat(codes), codebook=torch.cat(books))


def _edges(books: Tensor) -> Tensor:
    """Return the points half-way between the centres [books, k], float64 [books, k - 1]; one belongs to the centre below it."""
    return (books[:, 1:].to(torch.float64) + books[:, :-1].to(torch.float64)) / 2.0


def fused(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, out: Tensor) -> bool:
    """Write decode(encode(rows)) to `out` by a compiled loop."""
    no_bounds(spec, bounds)
    block_amax(rows, rows.shape[1])
    per_book = channels_per_book(spec, len(rows))
    books = torch.cat([torch.from_numpy(centres(part.numpy(), 2**spec.bits)) for part in _parts(rows, per_book)]).to(torch.float32)
    run.write(kmeans.assign, rows, out, _rounded_down(_edges(books).numpy()), books.numpy(), per_book)
    return True


def _rounded_down(edges: F64) -> NDArray[np.float32]:
    """Return the largest float32 not above `edges`: the float32 numbers that are above either are the same."""
    near = edges.astype(np.float32)
    return np.where(near > edges, np.nextafter(near, np.float32(-np.inf)), near)


def decode(encoded: Encoded, spec: QuantSpec) -> Tensor:
    """Return the rows, float32."""
    assert encoded.codebook is not None
    per_book = channels_per_book(spec, len(encoded.codes))
    book = torch.arange(len(encoded.codes), device=encoded.codes.device) // per_book
    return encoded.codebook[book.unsqueeze(1), encoded.codes.long()]


def layout(spec: QuantSpec, rows: int, columns: int) -> tuple[Field, ...]:
    """Codebooks, codes."""
    books = -(-rows // channels_per_book(spec, rows))
    return (Field("codebook", (books, 2**spec.bits), spec.scale), code_field(spec, rows, columns))


def centres(units: NDArray[np.float32], k: int) -> F64:
    """Return [U, k] centres, ascending, of k-means over every row of `units` [U, n].

    Exact where it takes at most `EXACT_STEPS`, else the best of a few runs of Lloyd's iteration from k-means++ (seeded) over at most 2^18
    evenly spaced order statistics, and one step over all values.
    """
    points, books = np.sort(units, axis=1), np.empty((len(units), k))
    if units.size * k * math.log2(units.shape[1] + 1) <= EXACT_STEPS:
        kmeans.optimal_books(points.astype(np.float64), books)
    else:
        for row, book in zip(points, books, strict=True):
            stride = -(-len(row) // _LLOYD_POINTS)
            book[:] = _best_of_lloyd(row[stride // 2 :: stride].astype(np.float64), k)
            _step(row, book)
    return books


def _step(points: NDArray[np.float32], book: F64) -> None:
    """One step of Lloyd's iteration over all sorted `points`, as `kmeans.lloyd` takes it."""
    edges = np.searchsorted(points, _rounded_down((book[1:] + book[:-1]) / 2.0), side="right")
    starts = np.concatenate([[0], edges, [len(points)]])
    counts = np.diff(starts)
    if counts.all():
        book[:] = np.clip(np.add.reduceat(points, starts[:-1], dtype=np.float64) / counts, points[starts[:-1]], points[starts[1:] - 1])
    else:
        kmeans.lloyd(points.astype(np.float64), book, 1)


def _best_of_lloyd(sample: F64, k: int) -> F64:
    """Return the best of a few runs of Lloyd's iteration over a sorted sample."""
    best, least = np.repeat(sample[-1], k), math.inf
    for seed in range(_SEEDS):
        book = _plus_plus(sample, k, np.random.default_rng(seed))
        kmeans.lloyd(sample, book, _ITERATIONS)
        error = float(((sample - book[np.searchsorted((book[1:] + book[:-1]) / 2.0, sample)]) ** 2).sum())
        if error < least:
            best, least = book, error
    return best


def _plus_plus(points: F64, k: int, rng: np.random.Generator) -> F64:
    """Return k starting centres: each drawn with probability proportional to the squared distance to the nearest before it."""
    sample = points[:: -(-len(points) // _SAMPLE)]
    book = np.full(k, sample[rng.integers(len(sample))])
    distances = (sample - book[0]) ** 2
    for i in range(1, k):
        cumulative = np.cumsum(distances)
        if cumulative[-1] > 0.0:
            book[i] = sample[min(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"), len(sample) - 1)]
        distances = np.minimum(distances, (sample - book[i]) ** 2)
    book.sort()
    return book


def _parts(rows: Tensor, per_book: int) -> list[Tensor]:
    """Return [books, values of a book] of the full groups of channels, and of a last smaller group."""
    full = len(rows) // per_book * per_book
    parts = [rows[:full].reshape(full // per_book, -1), rows[full:].reshape(1, -1)]
    return [part for part in parts if part.numel()]


CODEC = Codec(encode, decode, layout, fused=fused)
