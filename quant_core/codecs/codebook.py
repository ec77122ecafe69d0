"""K-means codebooks (Han et al., ICLR 2016, section 3): 2^bits float32 centres per tensor, channel, or group of channels."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant_core.codecs import Bounds, Codec, Encoded, Field, code_field, no_bounds
from quant_core.kernels import kmeans
from quant_core.spec import QuantSpec

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
        found = torch.from_numpy(centres(part.cpu().numpy(), 2**spec.bits)).to(torch.float32).to(rows.device)
        edges = (found[:, 1:].to(torch.float64) + found[:, :-1].to(torch.float64)) / 2.0
        codes.append(torch.searchsorted(edges, part.to(torch.float64)).to(torch.uint8).reshape(-1, rows.shape[1]))
        books.append(found)
    return Encoded(torch.cat(codes), codebook=torch.cat(books))


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

    Exact where it takes at most `EXACT_STEPS`, else the best of a few runs of Lloyd's iteration from k-means++ (seeded).
    """
    points = np.sort(units, axis=1).astype(np.float64)
    found = np.empty((len(points), k))
    if points.size * k * math.log2(points.shape[1] + 1) <= EXACT_STEPS:
        kmeans.optimal_books(points, found)
    else:
        for row, book in zip(points, found, strict=True):
            book[:] = _best_of_lloyd(row, k)
    return found


def _best_of_lloyd(points: F64, k: int) -> F64:
    """Return the best of a few runs over evenly spaced order statistics of the sorted `points`, and one step over all of them."""
    stride = -(-len(points) // _LLOYD_POINTS)
    sample = points[stride // 2 :: stride]
    best, least = np.repeat(points[-1], k), math.inf
    for seed in range(_SEEDS):
        book = _plus_plus(sample, k, np.random.default_rng(seed))
        kmeans.lloyd(sample, book, _ITERATIONS)
        error = float(((sample - book[np.searchsorted((book[1:] + book[:-1]) / 2.0, sample)]) ** 2).sum())
        if error < least:
            best, least = book, error
    kmeans.lloyd(points, best, 1)
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


CODEC = Codec(encode, decode, layout)
