"""XNOR + popcount matrix product of packed signs, compiled; LLVM makes it vector instructions of the CPU at hand."""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic


@intrinsic
def popcount(typing_context, word):
    """Return the set bits of a uint64, by LLVM's `ctpop`."""
    del typing_context, word

    def generate(context, builder, signature, args):
        del context, signature
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


@numba.njit(nogil=True, cache=True)
def gemm(a, b, length, out):
    """Write out[i, j] = length - 2 popcount(a[i] ^ b[:, j]); a [M, W], b [W, N] words, out [M, N] int32. Eight words at a time."""
    rows, words = a.shape
    columns = b.shape[1]
    blocked = words - words % 8
    for i in range(rows):
        for j in range(columns):
            out[i, j] = length
        for k in range(0, blocked, 8):
            w0, w1, w2, w3 = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
            w4, w5, w6, w7 = a[i, k + 4], a[i, k + 5], a[i, k + 6], a[i, k + 7]
            for j in range(columns):
                low = popcount(w0 ^ b[k, j]) + popcount(w1 ^ b[k + 1, j]) + popcount(w2 ^ b[k + 2, j]) + popcount(w3 ^ b[k + 3, j])
                high = popcount(w4 ^ b[k + 4, j]) + popcount(w5 ^ b[k + 5, j]) + popcount(w6 ^ b[k + 6, j]) + popcount(w7 ^ b[k + 7, j])
                out[i, j] -= 2 * np.int32(low + high)
        for k in range(blocked, words):
            word = a[i, k]
            for j in range(columns):
                out[i, j] -= 2 * np.int32(popcount(word ^ b[k, j]))


@numba.njit(nogil=True, cache=True)
def pack_channels(positive, top, left, out):
    """Pack positive [B, C, H, W] (0 or 1) into out [B, H + 2 top, W + 2 left, ceil(C / 8)], which is zero; channel c is bit c % 8."""
    batch, channels, height, width = positive.shape
    for b in range(batch):
        for y in range(height):
            for c in range(channels):
                byte, bit = c >> 3, np.uint8(c & 7)
                row = out[b, y + top]
                for x in range(width):
                    row[x + left, byte] |= positive[b, c, y, x] << bit
