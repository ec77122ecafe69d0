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
GROUPS = 8192
SORTED = 1 << 18
"""Values of a row up to which they are sorted."""
F64 = NDArray[np.float64]


def channels_per_book(spec: QuantSpec, rows: int) -> int:
    """Return how many output channels share a codebook."""
    return {"tensor": rows, "channel": 1, "group": min(spec.block, rows)}[spec.granularity]


def encode(rows: Tensor, spec: QuantSpec, bounds: Bounds | None, generator: torch.Generator | None) -> Encoded:  # noqa: ARG001
    """Return codes [R, C] and codebooks [books, 2^bits], ascending. Deterministic; a value half-way takes the lower centre.

    With fewer distinct values than centres the values are the centres and the last is repeated.
    """
    no_bounds(spec, bounds)
    return _encode(rows, None, spec)


def weighted(rows: Tensor, importance: Tensor, spec: QuantSpec, generator: torch.Generator | None) -> Encoded:  # noqa: ARG001
    """Return the codes and codebooks of `encode`, centres of least squared error multiplied by `importance` [R, C] (SqueezeLLM, Kim
    et al., ICML 2024, equation 4, with the input's second moments in place of the Fisher information).
    """
    return _encode(rows, importance, spec)


def _encode(rows: Tensor, importance: Tensor | None, spec: QuantSpec) -> Encoded:
    books, codes, per_book = [], [], channels_per_book(spec, len(rows))
    weights = [None, None] if importance is None else [part.cpu().double().numpy() for part in _parts(importance, per_book)]
    for part, weight in zip(_parts(rows, per_book), weights, strict=False):
        book = torch.from_numpy(centres(part.cpu().numpy(), 2**spec.bits, weight)).to(torch.float32).to(rows.device)
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


def centres(units: NDArray[np.float32], k: int, weights: F64 | None = None) -> F64:
    """Return [U, k] centres, ascending, of k-means over every row of `units` [U, n], each value counted `weights` [U, n] times.

    Exact where it takes at most `EXACT_STEPS`; else exact over groups of neighbouring values, as many as `GROUPS`, which
    comes within 0.5 % of the least squared error. Those of a row of more than `SORTED` values are made of bins of 2^-11 of an octave.
    """
    books = np.empty((len(units), k))
    if weights is not None:
        for row, weight, book in zip(units, weights, books, strict=True):
            order = np.argsort(row, kind="stable")
            kmeans.weighted_book(*_groups(row[order].astype(np.float64), weight[order]), book)
    elif units.size * k * math.log2(units.shape[1] + 1) <= EXACT_STEPS:
        kmeans.optimal_books(np.sort(units, axis=1).astype(np.float64), books)
    else:
        for row, book in zip(units, books, strict=True):
            kmeans.weighted_book(*_groups(*_points(row)), book)
    return books


def _points(row: NDArray[np.float32]) -> tuple[F64, F64]:
    """Return ascending values and their weights: all of a row, or of a long one the mean and count of every 2^-11 of an octave."""
    if len(row) <= SORTED:
        points = np.sort(row).astype(np.float64)
        return points, np.ones(len(points))
    counts, sums = np.zeros(2 << 19), np.zeros(2 << 19)
    kmeans.count_bins(row, counts, sums)
    filled = np.concatenate([np.flatnonzero(counts[1 << 19 :])[::-1] + (1 << 19), np.flatnonzero(counts[: 1 << 19])])
    return sums[filled] / counts[filled], counts[filled]


def _groups(points: F64, weights: F64) -> tuple[F64, F64]:
    """Return the means and weights of groups of sorted `points`, with about the same squared error within.

    A group may hold the same integral of density^(1/3), where k-means puts its centres for large k (Panter and Dite, Proc. IRE 1951): every
    gap d between points of weight w adds w^(1/3) d^(2/3).
    """
    gaps = np.diff(points)
    apart = gaps > 0
    if apart.sum() >= GROUPS:
        cumulative = np.cumsum(np.cbrt(weights[1:] * gaps**2))
        apart = np.diff(np.floor(cumulative * (GROUPS / cumulative[-1])), prepend=0.0) > 0
    label = np.concatenate([[0], np.cumsum(apart)])
    totals = np.bincount(label, weights).astype(np.float64)
    return np.bincount(label, weights * points) / totals, totals


def _parts(rows: Tensor, per_book: int) -> list[Tensor]:
    """Return [books, values of a book] of the full groups of channels, and of a last smaller group."""
    full = len(rows) // per_book * per_book
    parts = [rows[:full].reshape(full // per_book, -1), rows[full:].reshape(1, -1)]
    return [part for part in parts if part.numel()]


CODEC = Codec(encode, decode, layout, fused=fused, weighted=weighted)
