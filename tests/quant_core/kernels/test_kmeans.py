import numpy as np
import pytest

from quant_core.kernels import kmeans

ROWS, COLUMNS = 4, 1 << 16


def _values(kind: str, rng: np.random.Generator) -> np.ndarray:
    size = (2 * ROWS, COLUMNS)
    draw = {"gauss": rng.standard_normal, "cauchy": rng.standard_cauchy, "near": lambda shape: 1.0 + 1e-3 * rng.random(shape)}
    values = np.round(4 * rng.standard_normal(size)) / 4 if kind == "ties" else draw[kind](size)
    values[0, :4] = 0.0, -0.0, np.finfo(np.float32).max, np.finfo(np.float32).tiny / 4
    return values.astype(np.float32)


@pytest.mark.parametrize("kind", ["gauss", "cauchy", "near", "ties"])
@pytest.mark.parametrize("k", [32, 256])
def test_values_of_a_large_tensor_take_the_centre_between_their_edges(kind: str, k: int) -> None:
    rng = np.random.default_rng(k)
    x = _values(kind, rng)
    edges = np.sort(rng.choice(x.reshape(2, -1), k - 1, axis=1), axis=1)
    edges[0, np.argmin(np.abs(edges[0]))] = -0.0
    books = np.arange(2 * k, dtype=np.float32).reshape(2, k)
    out = np.empty_like(x)
    kmeans.assign(x, 0, ROWS + 1, out, edges, books, ROWS)
    kmeans.assign(x, ROWS + 1, 2 * ROWS, out, edges, books, ROWS)  # a thread may begin within a book
    for book in range(2):
        part = slice(book * ROWS, (book + 1) * ROWS)
        assert np.array_equal(out[part], books[book][np.searchsorted(edges[book], x[part])])
