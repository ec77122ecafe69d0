"""Quantize and dequantize in one pass over memory, compiled. Every loop gives the bits of the eager `decode(encode(x))`.

Loops take a contiguous float32 matrix `x` [R, C] and rows [first, last) of it; those that write return the largest magnitude seen as its
float bits (NaN and infinity are 0x7f800000 and above). Inner loops run over a whole row (a slice that starts at 0) or a fixed 32 elements,
which is what lets LLVM vectorize them. A cached loop that calls a loop of another module is not recompiled when that one changes: delete
`__pycache__` after an edit here.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, operator"

import numba
import numpy as np

F, N = np.float32, np.int32
_ABS = N(0x7FFFFFFF)
_LANES = 16
_SMALLEST = F(2.0**-126)
_MX = 32


@numba.njit(error_model="numpy", nogil=True, cache=True)
def amax16(row, out):
    """Write the largest magnitude (float bits) of the first len(out) times 16 elements of `row`; two at a time, in loops of 32."""
    for c in range(len(out) // 2):
        a = b = N(0)
        for k in range(_MX):
            v = F(row[c * _MX + k]).view(N) & _ABS
            a = max(a, v if k < _LANES else N(0))
            b = max(b, N(0) if k < _LANES else v)
        out[2 * c], out[2 * c + 1] = a, b
    if len(out) % 2:
        part, top = row[(len(out) - 1) * _LANES : len(out) * _LANES], N(0)
        for j in range(len(part)):
            top = max(top, F(part[j]).view(N) & _ABS)
        out[len(out) - 1] = top


@numba.njit(error_model="numpy", nogil=True, cache=True)
def block_amax(x, first, last, block, out):
    """Write to out[row, b] the largest magnitude of every block; the last block of a row may be short."""
    per_block = block // _LANES if block % _LANES == 0 and block <= 256 else 0
    full = x.shape[1] // block if per_block else 0
    sixteens = np.empty(full * per_block, dtype=N)
    for r in range(first, last):
        amax16(x[r], sixteens)
        for b in range(full):
            top = N(0)
            for k in range(per_block):
                top = max(top, sixteens[b * per_block + k])
            out[r, b] = N(top).view(F)
        for b in range(full, out.shape[1]):
            part, top = x[r, b * block : (b + 1) * block], N(0)
            for j in range(len(part)):
                top = max(top, F(part[j]).view(N) & _ABS)
            out[r, b] = N(top).view(F)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def linear(x, first, last, out, inverse, scale, zero, low, high, block):
    """Write (clamp(round(x inverse) + zero, low, high) - zero) scale; the grids are [R or 1, B] in blocks of `block` columns."""
    many, worst, blocks = scale.shape[0] > 1, N(0), scale.shape[1]
    for r in range(first, last):
        g = r if many else 0
        if blocks == 1:
            worst = max(worst, _on_one_grid(x[r], out[r], inverse[g, 0], scale[g, 0], zero[g, 0], low, high))
        elif block % _LANES == 0:
            worst = max(worst, _on_grids16(x[r], out[r], inverse[g], scale[g], zero[g], low, high, block // _LANES))
        else:
            for b in range(blocks):
                part, to = x[r, b * block : (b + 1) * block], out[r, b * block : (b + 1) * block]
                worst = max(worst, _on_one_grid(part, to, inverse[g, b], scale[g, b], zero[g, b], low, high))
    return worst


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _on_one_grid(row, to, inverse, scale, zero, low, high):
    top = N(0)
    for j in range(len(row)):
        top = max(top, F(row[j]).view(N) & _ABS)
        to[j] = (min(max(np.rint(row[j] * inverse) + zero, low), high) - zero) * scale
    return top


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _on_grids16(row, to, inverse, scale, zero, low, high, per_block):
    """The grids of every `per_block` times 16 elements; two at a time, in loops of 32."""
    top, pairs = N(0), len(row) // _MX
    for c in range(pairs):
        a, b = 2 * c // per_block, (2 * c + 1) // per_block
        for k in range(_MX):
            v, i = row[c * _MX + k], inverse[a] if k < _LANES else inverse[b]
            s, z = scale[a] if k < _LANES else scale[b], zero[a] if k < _LANES else zero[b]
            top = max(top, F(v).view(N) & _ABS)
            to[c * _MX + k] = (min(max(np.rint(v * i) + z, low), high) - z) * s
    for j in range(pairs * _MX, len(row)):
        b = j // (per_block * _LANES)
        top = max(top, F(row[j]).view(N) & _ABS)
        to[j] = (min(max(np.rint(row[j] * inverse[b]) + zero[b], low), high) - zero[b]) * scale[b]
    return top


@numba.njit(error_model="numpy", nogil=True, cache=True)
def symmetric16(row, to, inverses, scales, low, high):
    """Write clamp(round(row inverse), low, high) scale, with one inverse and scale per 16 elements of a row of whole sixteens."""
    for c in range(len(scales) // 2):
        i, j, s, t = inverses[2 * c], inverses[2 * c + 1], scales[2 * c], scales[2 * c + 1]
        for k in range(_MX):
            q = np.rint(row[c * _MX + k] * (i if k < _LANES else j)) + F(0.0)
            to[c * _MX + k] = min(max(q, low), high) * (s if k < _LANES else t)
    if len(scales) % 2:
        b = len(scales) - 1
        for k in range(b * _LANES, b * _LANES + _LANES):
            to[k] = min(max(np.rint(row[k] * inverses[b]) + F(0.0), low), high) * scales[b]


@numba.njit(error_model="numpy", nogil=True, cache=True)
def vectors(x, first, last, out, low, high, levels, ceiling, tensor_coarse):
    """VSQuant with vectors of 16 in rows of whole vectors; `tensor_coarse` > 0 is the float scale, else every row has its own."""
    count, worst = x.shape[1] // _LANES, N(0)
    fine, inverse, amaxes = np.empty(count, dtype=F), np.empty(count, dtype=F), np.empty(count, dtype=N)
    for r in range(first, last):
        amax16(x[r], amaxes)
        largest = N(0)
        for b in range(count):
            worst = max(worst, amaxes[b])
            fine[b] = min(N(amaxes[b]).view(F) / max(high, F(1.0)), ceiling)
            largest = max(largest, F(fine[b]).view(N))
        coarse = tensor_coarse
        if coarse == F(0.0):
            coarse = max(N(largest).view(F) / levels, _SMALLEST) if largest > 0 else F(1.0)
        for b in range(count):
            fine[b] = min(max(np.rint(fine[b] / coarse), F(1.0)), levels) * coarse
            inverse[b] = F(1.0) / fine[b]
        symmetric16(x[r], out[r], inverse, fine, low, high)
    return worst
