"""The compiled search for the least squared error against the same search in plain Python, bit for bit."""

import itertools
from collections.abc import Callable

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from quant_core.clipping import kernels
from quant_core.clipping.lanes import LANES, add_errors, add_lanes, load, place_of, work_space

F32, F64 = NDArray[np.float32], NDArray[np.float64]
GRID = np.linspace(1.3, 0.05, 40)
SHAPES: dict[str, Callable[[np.random.Generator, int], F64]] = {
    "normal": lambda draw, n: draw.standard_normal(n),
    "far tail": lambda draw, n: draw.standard_t(1.2, n),
    "integers": lambda draw, n: np.rint(3 * draw.standard_normal(n)),
    "one value": lambda _draw, n: np.full(n, 0.7),
    "tiny": lambda draw, n: 1e-24 * draw.standard_normal(n),
    "huge": lambda draw, n: 3e36 * draw.standard_normal(n),
    "sparse": lambda draw, n: draw.standard_normal(n) * (draw.random(n) < 0.1),
}


def lanes_of(x: F32, w: F32 | None, scale: np.float32, low: np.float32, high: np.float32) -> F32:
    """Return the lanes [3, 64] of w r^2, w r k, w k^2, added in the order of the elements, in float32."""
    codes = np.rint(np.minimum(np.maximum(x * (np.float32(1.0) / scale), low), high))
    rest = x - codes * scale
    one = np.float32(1.0) if w is None else w
    terms = np.stack([one * rest * rest, one * rest * codes, one * codes * codes])
    steps = np.pad(terms, ((0, 0), (0, -len(x) % LANES))).reshape(3, -1, LANES)
    lanes: F32 = np.zeros((3, LANES), np.float32)
    for step in range(steps.shape[1]):
        lanes += steps[:, step]
    return lanes


def errors(x: F32, w: F32 | None, scale: float, low: float, high: float) -> tuple[float, ...]:
    sums = [0.0, 0.0, 0.0]
    for chunk in range(0, len(x), 4096):
        part = slice(chunk, chunk + 4096)
        lanes = lanes_of(x[part], None if w is None else w[part], np.float32(scale), np.float32(low), np.float32(high))
        for lane, row in itertools.product(range(LANES), range(3)):
            sums[row] += float(lanes[row, lane])
    return tuple(sums)


def searched(x: F32, w: F32 | None, low: float, high: float) -> float:
    """Return the scale of the least error: all of the grid, then nearby scales, then least-squares steps."""
    best = [np.inf, 0.0]

    def attempt(scale: float) -> None:
        if scale > 1e-30:
            error, cross, square = errors(x, w, scale, low, high)
            moved = scale + cross / square if square > 0 else 0.0
            if moved > 1e-30:
                error, scale = error - cross * cross / square, moved
            if error < best[0]:
                best[:] = error, scale

    for fraction in GRID:
        attempt(float(np.abs(x).max()) / high * fraction)
    for halving in range(5):
        middle = best[1]
        for sign in (-1.0, 1.0):
            attempt(middle * (1.0 + sign * 0.024 * 0.5**halving))
    for _ in range(10):
        before = best[0]
        attempt(best[1])
        if not best[0] < before * (1.0 - 1e-6):
            break
    return best[1]


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_search_takes_the_scale_that_the_search_over_everything_takes(shape: str, weighted: bool) -> None:
    draw = np.random.default_rng(3)
    for size, bits in itertools.product((1, 17, 64, 100, 4160), (2, 4, 8)):
        x = SHAPES[shape](draw, size).astype(np.float32)
        if not x.any():
            continue
        w = draw.integers(0, 9, size).astype(np.float32) if weighted else None
        low, high, scale = -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1, np.zeros(1)
        kernels.mse_symmetric(x[None], 0, 1, None if w is None else w[None], low, high, GRID, scale)
        assert scale[0] == searched(x, w, low, high), (size, bits)


def test_lanes_are_those_of_additions_one_by_one_and_their_sums_are_near() -> None:
    @numba.njit
    def run(matrix: F32, weights: F32 | None) -> tuple[F32, tuple[float, ...], tuple[float, ...]]:
        space = work_space(matrix, weights)
        load(space, matrix, weights, 0)
        place = place_of(space, matrix, weights)
        near = add_errors(place, 0, place[1], np.float32(0.3), np.float32(-8.0), np.float32(7.0))
        return space, near, add_lanes(place, 1.0, 2.0, 3.0)

    draw = np.random.default_rng(0)
    for size, weighted in itertools.product((1, 64, 200, 4096), (False, True)):
        x, w = draw.standard_normal(size).astype(np.float32), draw.random(size).astype(np.float32) if weighted else None
        space, near, exact = run(x[None], None if w is None else w[None])
        expected = lanes_of(x, w, np.float32(0.3), np.float32(-8), np.float32(7))
        assert space[: 3 * LANES].tobytes() == expected.tobytes()
        magnitudes = np.abs(expected.astype(np.float64)).sum(axis=1)
        assert np.all(np.abs(np.subtract(exact, near) - (1, 2, 3)) <= 2.0**-21 * magnitudes)
        assert exact == tuple(float(np.cumsum(np.append(start, lanes))[-1]) for start, lanes in zip((1.0, 2.0, 3.0), expected, strict=True))


@pytest.mark.parametrize(("function", "arguments"), [(work_space, 2), (load, 4), (place_of, 3)])
def test_the_work_space_is_for_compiled_loops_alone(function: Callable[..., object], arguments: int) -> None:
    with pytest.raises(NotImplementedError, match="compiled loops"):
        function(*[None] * arguments)
