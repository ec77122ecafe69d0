"""One pass over an activation, forward and backward, compiled by numba: contiguous float32 on the CPU. Everything else is eager torch.

The forward loop gives the bits of torch.fake_quantize_per_tensor_affine; NaN stays NaN. The sums, whose order is the compiler's to choose,
are forced into their callers: as functions of their own, numba optimizes them once more inside the caller, and a process that has just
compiled both runs the one order, a process that reads the caller from numba's cache the other. Training would then differ in the last bit.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import numba
import numpy as np

_PIECE = 4096


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


@numba.njit(nogil=True, cache=True, forceinline=True, fastmath={"reassoc", "nsz"})
def _step_piece(x, gradient, inverse, low, high, out):
    total, nothing = np.float32(0.0), np.float32(0.0)
    for i in range(x.size):
        steps = x[i] * inverse
        q = np.rint(steps)
        code = low if q < low else q
        code = high if code > high else code
        g = gradient[i]
        out[i] = g if code == q else nothing
        total += g * (code - (steps if code == q else nothing))
    return total


@numba.njit(nogil=True, cache=True)
def step_backward(x, gradient, inverse, low, high, out):
    """Write the gradient where x is inside, and return that of the step (LSQ, equation 3)."""
    total = 0.0
    for start in range(0, x.size, _PIECE):
        stop = start + _PIECE
        total += _step_piece(x[start:stop], gradient[start:stop], inverse, low, high, out[start:stop])
    return total


@numba.njit(nogil=True, cache=True, forceinline=True, fastmath={"reassoc", "nsz"})
def _clip_piece(x, gradient, clip, out):
    total, nothing = np.float32(0.0), np.float32(0.0)
    for i in range(x.size):
        g = gradient[i]
        out[i] = g if (x[i] >= nothing) & (x[i] < clip) else nothing
        total += g if x[i] >= clip else nothing
    return total


@numba.njit(nogil=True, cache=True)
def clip_backward(x, gradient, clip, out):
    """Write the gradient where 0 <= x < clip, and return that of the clip (PACT, equation 3)."""
    total = 0.0
    for start in range(0, x.size, _PIECE):
        stop = start + _PIECE
        total += _clip_piece(x[start:stop], gradient[start:stop], clip, out[start:stop])
    return total
