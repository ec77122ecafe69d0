"""One pass over an activation, forward and backward, compiled by numba: contiguous float32 on the CPU. Everything else is eager torch.

The forward loop gives the bits of torch.fake_quantize_per_tensor_affine; NaN stays NaN. Sums go in lanes, as in `clipping.kernels`.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import numba
import numpy as np

_PIECE = 16384
_LANES = 256


@numba.njit(nogil=True, cache=True)
def forward(x, inverse, scale, zero, low, high, out):
    """Write (clamp(round(x inverse) + zero, low, high) - zero) scale."""
    for i in range(x.size):
        q = np.rint(x[i] * inverse) + zero
        q = low if q < low else q
        q = high if q > high else q
        out[i] = (q - zero) * scale


@numba.njit(nogil=True, cache=True)
def pass_inside(x, gradient, inverse, zero, low, high, out):
    """Write the gradient where low <= round(x inverse) + zero <= high, else 0."""
    for i in range(x.size):
        q = np.rint(x[i] * inverse) + zero
        out[i] = gradient[i] if (q >= low) & (q <= high) else np.float32(0.0)


@numba.njit(nogil=True, cache=True)
def _add_step(x, gradient, inverse, low, high, out, lanes):
    nothing = np.float32(0.0)
    for i in range(len(x)):
        steps = x[i] * inverse
        q = np.rint(steps)
        code = low if q < low else q
        code = high if code > high else code
        g = gradient[i]
        out[i] = g if code == q else nothing
        lanes[i] += g * (code - (steps if code == q else nothing))


@numba.njit(nogil=True, cache=True)
def step_backward(x, gradient, inverse, low, high, out):
    """Write the gradient where x is inside, and return that of the step (LSQ, equation 3)."""
    total, lanes = 0.0, np.empty(_LANES, dtype=np.float32)
    for piece in range(0, x.size, _PIECE):
        lanes[:] = 0.0
        for start in range(piece, min(piece + _PIECE, x.size), _LANES):
            stop = start + _LANES
            _add_step(x[start:stop], gradient[start:stop], inverse, low, high, out[start:stop], lanes)
        for lane in range(_LANES):
            total += lanes[lane]
    return total


@numba.njit(nogil=True, cache=True)
def _add_clip(x, gradient, clip, out, lanes):
    nothing = np.float32(0.0)
    for i in range(len(x)):
        g = gradient[i]
        out[i] = g if (x[i] >= nothing) & (x[i] < clip) else nothing
        lanes[i] += g if x[i] >= clip else nothing


@numba.njit(nogil=True, cache=True)
def clip_backward(x, gradient, clip, out):
    """Write the gradient where 0 <= x < clip, and return that of the clip (PACT, equation 3)."""
    total, lanes = 0.0, np.empty(_LANES, dtype=np.float32)
    for piece in range(0, x.size, _PIECE):
        lanes[:] = 0.0
        for start in range(piece, min(piece + _PIECE, x.size), _LANES):
            _add_clip(x[start : start + _LANES], gradient[start : start + _LANES], clip, out[start : start + _LANES], lanes)
        for lane in range(_LANES):
            total += lanes[lane]
    return total
