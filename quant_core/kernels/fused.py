"""Quantize and dequantize in one pass over memory, compiled. Every loop gives the bits of the eager `decode(encode(x))`.

Loops take a contiguous float32 matrix `x` [R, C] and rows [first, last) of it; those that write return the largest magnitude seen as its
float bits (NaN and infinity are 0x7f800000 and above). Inner loops run over a fixed 16 or 32 elements, which is what lets LLVM vectorize
them; rounding to a minifloat adds and subtracts 1.5 x 2^23 steps, which rounds to nearest even in the step wanted.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, operator"

import math

import numba
import numpy as np

F, N = np.float32, np.int32
_ABS, _SIGN, _EXPONENT, _HALF = N(0x7FFFFFFF), N(-0x80000000), N(0x7F800000), N(0x400000)
_LANES = 16
_MX = 32
_SAFE_LOW, _SAFE_HIGH = N(48), N(208)


@numba.njit(nogil=True, cache=True)
def tops(x, first, last, block, out):
    """Write to out[row, b] the largest magnitude of every block; the last block of a row may be short."""
    columns = x.shape[1]
    for r in range(first, last):
        for b in range(out.shape[1]):
            start, stop, top = b * block, min(columns, (b + 1) * block), N(0)
            whole = (stop - start) // _LANES
            for c in range(whole):
                for k in range(_LANES):
                    top = max(top, F(x[r, start + c * _LANES + k]).view(N) & _ABS)
            for j in range(start + whole * _LANES, stop):
                top = max(top, F(x[r, j]).view(N) & _ABS)
            out[r, b] = N(top).view(F)


@numba.njit(nogil=True, cache=True)
def linear(x, first, last, out, inverse, scale, zero, low, high, block):
    """Write (clamp(round(x inverse) + zero, low, high) - zero) scale; the grids are [R or 1, B] in blocks of `block` columns."""
    columns, many, worst = x.shape[1], scale.shape[0] > 1, N(0)
    for r in range(first, last):
        g = r if many else 0
        for b in range(scale.shape[1]):
            i, s, z = inverse[g, b], scale[g, b], zero[g, b]
            start, stop = b * block, min(columns, (b + 1) * block)
            whole = (stop - start) // _LANES
            for c in range(whole):
                for k in range(_LANES):
                    v = x[r, start + c * _LANES + k]
                    worst = max(worst, F(v).view(N) & _ABS)
                    out[r, start + c * _LANES + k] = (min(max(np.rint(v * i) + z, low), high) - z) * s
            for j in range(start + whole * _LANES, stop):
                v = x[r, j]
                worst = max(worst, F(v).view(N) & _ABS)
                out[r, j] = (min(max(np.rint(v * i) + z, low), high) - z) * s
    return worst


@numba.njit(nogil=True, cache=True)
def _floor_log2(value):
    """Return floor(log2(value)) of a positive float64."""
    return math.frexp(value)[1] - 1


@numba.njit(nogil=True, cache=True)
def _largest(x, r, start, stop):
    top = N(0)
    for j in range(start, stop):
        top = max(top, F(x[r, j]).view(N) & _ABS)
    return top


@numba.njit(nogil=True, cache=True)
def _slow_minifloat(x, r, start, stop, out, top, mantissa, emin, emax, largest):
    """One block of any length and any magnitude, in float64."""
    peak = np.float64(N(top).view(F))
    e = min(max(_floor_log2(peak) - emax if peak > 0.0 else -127, -127), 127)
    scale = F(math.ldexp(1.0, e))
    for j in range(start, stop):
        a = math.ldexp(abs(np.float64(x[r, j])), -e)
        step = math.ldexp(1.0, (max(_floor_log2(a), emin) if a > 0.0 else emin) - mantissa)
        q = min(np.rint(a / step) * step, np.float64(largest))
        out[r, j] = F(math.copysign(q, x[r, j])) * scale


@numba.njit(nogil=True, cache=True)
def minifloat(x, first, last, out, mantissa, emin, emax, largest):
    """OCP MX with minifloat elements: blocks of 32 under 2^(floor(log2(top)) - emax)."""
    blocks, worst = -(-x.shape[1] // _MX), N(0)
    for r in range(first, last):
        for b in range(blocks):
            start = b * _MX
            short, top = start + _MX > x.shape[1], N(0)
            if short:
                top = _largest(x, r, start, x.shape[1])
            else:
                for k in range(_MX):
                    top = max(top, F(x[r, start + k]).view(N) & _ABS)
            worst = max(worst, top)
            e = N(top >> 23)
            if short or e < _SAFE_LOW or e > _SAFE_HIGH:
                _slow_minifloat(x, r, start, min(start + _MX, x.shape[1]), out, top, mantissa, emin, emax, largest)
                continue
            smallest, add = N((e - emax + emin) << 23), N(((23 - mantissa) << 23) | _HALF)
            limit = N((e - emax) << 23).view(F) * largest
            for k in range(_MX):
                v = x[r, start + k]
                bits = F(v).view(N)
                c = N(max(bits & _EXPONENT, smallest) + add).view(F)
                q = min(max((v + c) - c, -limit), limit)
                out[r, start + k] = N((F(q).view(N) & _ABS) | (bits & _SIGN)).view(F)
    return worst


@numba.njit(nogil=True, cache=True)
def fixed_point(x, first, last, out, fraction, high):
    """MXINT8: blocks of 32 integers in [-high, high] of 2^(floor(log2(top)) - fraction)."""
    blocks, worst = -(-x.shape[1] // _MX), N(0)
    for r in range(first, last):
        for b in range(blocks):
            start = b * _MX
            stop, top = min(start + _MX, x.shape[1]), N(0)
            if stop - start == _MX:
                for k in range(_MX):
                    top = max(top, F(x[r, start + k]).view(N) & _ABS)
            else:
                top = _largest(x, r, start, stop)
            worst = max(worst, top)
            e = N(top >> 23)
            if stop - start == _MX and _SAFE_LOW <= e <= _SAFE_HIGH:
                inverse, step = N((254 - e + fraction) << 23).view(F), N((e - fraction) << 23).view(F)
                for k in range(_MX):
                    q = min(max(np.rint(x[r, start + k] * inverse) + F(0.0), -high), high)
                    out[r, start + k] = q * step
            else:
                peak = np.float64(N(top).view(F))
                power = max(_floor_log2(peak) if peak > 0.0 else -127, -127)
                for j in range(start, stop):
                    steps = np.rint(math.ldexp(np.float64(x[r, j]), fraction - power)) + 0.0
                    q = F(min(max(steps, -np.float64(high)), np.float64(high)))
                    out[r, j] = q * F(math.ldexp(1.0, -fraction)) * F(math.ldexp(1.0, power))
    return worst


@numba.njit(nogil=True, cache=True)
def micro_exponents(x, first, last, out, magnitude_bits):
    """MX4, MX6, MX9: blocks of 16 under 2^E, pairs with a micro-exponent, signed magnitudes of `magnitude_bits`."""
    blocks, worst = -(-x.shape[1] // _LANES), N(0)
    shift, high = N(magnitude_bits - 1), F(2**magnitude_bits - 1)
    for r in range(first, last):
        for b in range(blocks):
            start, top = b * _LANES, N(0)
            stop = min(start + _LANES, x.shape[1])
            whole = stop - start == _LANES
            if whole:
                for k in range(_LANES):
                    top = max(top, F(x[r, start + k]).view(N) & _ABS)
            else:
                top = _largest(x, r, start, stop)
            worst = max(worst, top)
            e = N(top >> 23)
            if not whole or e < _SAFE_LOW or e > _SAFE_HIGH:
                _slow_micro(x, r, start, stop, out, top, magnitude_bits)
                continue
            peak = N(e << 23)
            for k in range(_LANES):
                v = x[r, start + k]
                bits, other = F(v).view(N), F(x[r, start + (k ^ 1)]).view(N)
                power = N(e - shift - N(max(bits & _ABS, other & _ABS) < peak))
                q = min(max(np.rint(v * N((N(254) - power) << 23).view(F)), -high), high) * N(power << 23).view(F)
                out[r, start + k] = N((F(q).view(N) & _ABS) | (bits & _SIGN)).view(F)
    return worst


@numba.njit(nogil=True, cache=True)
def _slow_micro(x, r, start, stop, out, top, magnitude_bits):
    """One block of any length and any magnitude, in float64; pairs are read before they are written, for `out` may be `x`."""
    peak = np.float64(N(top).view(F))
    e = max(_floor_log2(peak), -127) if peak > 0.0 else -127
    high, edge = 2.0**magnitude_bits - 1.0, math.ldexp(1.0, e)
    for left in range(start, stop, 2):
        right = min(left + 1, stop - 1)
        micro = 1 if max(abs(np.float64(x[r, left])), abs(np.float64(x[r, right]))) < edge else 0
        power = e - micro - (magnitude_bits - 1)
        for j in range(left, right + 1):
            q = min(np.rint(math.ldexp(abs(np.float64(x[r, j])), -power)), high)
            out[r, j] = F(math.ldexp(math.copysign(q, x[r, j]), power))


@numba.njit(nogil=True, cache=True)
def nvfp4(x, first, last, out, coarse):
    """NVFP4 under the tensor scale `coarse`: blocks of 16 E2M1 numbers with an E4M3 scale in [2^-9, 448]."""
    blocks, worst = -(-x.shape[1] // _LANES), N(0)
    add, smallest = N((22 << 23) | _HALF), N(127 << 23)
    for r in range(first, last):
        for b in range(blocks):
            start, top = b * _LANES, N(0)
            stop = min(start + _LANES, x.shape[1])
            if stop - start == _LANES:
                for k in range(_LANES):
                    top = max(top, F(x[r, start + k]).view(N) & _ABS)
            else:
                top = _largest(x, r, start, stop)
            worst = max(worst, top)
            scale = F(1.0)
            if top > 0:
                wanted = min(max(N(top).view(F) / (F(6.0) * coarse), F(2.0**-9)), F(448.0))
                c = N(max(F(wanted).view(N) & _EXPONENT, N(121 << 23)) + N((20 << 23) | _HALF)).view(F)
                scale = (wanted + c) - c
            scale *= coarse
            if stop - start == _LANES:
                for k in range(_LANES):
                    v = x[r, start + k]
                    q = min(max(v / scale, F(-6.0)), F(6.0))
                    c = N(max(F(q).view(N) & _EXPONENT, smallest) + add).view(F)
                    q = ((q + c) - c) * scale
                    out[r, start + k] = N((F(q).view(N) & _ABS) | (F(v).view(N) & _SIGN)).view(F)
            else:
                for j in range(start, stop):
                    v = x[r, j]
                    q = min(max(v / scale, F(-6.0)), F(6.0))
                    c = N(max(F(q).view(N) & _EXPONENT, smallest) + add).view(F)
                    q = ((q + c) - c) * scale
                    out[r, j] = N((F(q).view(N) & _ABS) | (F(v).view(N) & _SIGN)).view(F)
    return worst
