"""Compiled loops of the formats with a shared power of two (OCP MX, MX4, MX6, MX9) and of NVFP4; conventions as in `fused`.

Rounding to a minifloat adds and subtracts 1.5 x 2^23 steps, which rounds to nearest even in the step wanted.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, operator"

import math

import numba
import numpy as np

from quant_core.kernels.fused import F, N, amax16

_ABS, _SIGN, _EXPONENT, _HALF = N(0x7FFFFFFF), N(-0x80000000), N(0x7F800000), N(0x400000)
_LANES = 16
_MX = 32
_SAFE_LOW, _SAFE_HIGH = N(48), N(208)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _floor_log2(value):
    """Return floor(log2(value)) of a positive float64."""
    return math.frexp(value)[1] - 1


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _largest(x, r, start, stop):
    top = N(0)
    for j in range(start, stop):
        top = max(top, F(x[r, j]).view(N) & _ABS)
    return top


@numba.njit(error_model="numpy", nogil=True, cache=True)
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


@numba.njit(error_model="numpy", nogil=True, cache=True)
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


@numba.njit(error_model="numpy", nogil=True, cache=True)
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


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _halve(values, out):
    for j in range(len(out)):
        out[j] = max(values[2 * j], values[2 * j + 1])


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _tree(row, pairs, fours, eights, sixteens):
    """Write the largest magnitudes (float bits) of every 2, 4, 8 and 16 elements of `row`; long loops, which LLVM vectorizes."""
    for j in range(len(pairs)):
        pairs[j] = max(F(row[2 * j]).view(N) & _ABS, F(row[2 * j + 1]).view(N) & _ABS)
    _halve(pairs, fours)
    _halve(fours, eights)
    _halve(eights, sixteens)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _scratch(columns):
    """Return the arrays that `_tree` writes to."""
    n = columns // _LANES
    return np.empty(8 * n, dtype=N), np.empty(4 * n, dtype=N), np.empty(2 * n, dtype=N), np.empty(n, dtype=N)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def micro_exponents(x, first, last, out, magnitude_bits):
    """MX4, MX6, MX9: blocks of 16 under 2^E, pairs with a micro-exponent, signed magnitudes of `magnitude_bits`."""
    columns, whole, worst = x.shape[1], x.shape[1] // _LANES, N(0)
    shift, high = N(magnitude_bits - 1), F(2**magnitude_bits - 1)
    powers, fours, eights, amaxes = _scratch(columns)
    for r in range(first, last):
        row, to = x[r], out[r]
        _tree(row, powers, fours, eights, amaxes)
        for b in range(whole):
            worst = max(worst, amaxes[b])
            e = N(min(max(amaxes[b] >> 23, _SAFE_LOW), _SAFE_HIGH))
            for k in range(_LANES // 2):
                powers[b * (_LANES // 2) + k] = N(e - shift - N(powers[b * (_LANES // 2) + k] < N(e << 23)))
        for j in range(len(powers)):
            v, w, power = row[2 * j], row[2 * j + 1], powers[j]
            inverse, step = N((N(254) - power) << 23).view(F), N(power << 23).view(F)
            p = min(max(np.rint(v * inverse), -high), high) * step
            q = min(max(np.rint(w * inverse), -high), high) * step
            to[2 * j] = N((F(p).view(N) & _ABS) | (F(v).view(N) & _SIGN)).view(F)
            to[2 * j + 1] = N((F(q).view(N) & _ABS) | (F(w).view(N) & _SIGN)).view(F)
        for b in range(whole):
            if amaxes[b] < (_SAFE_LOW << 23) or amaxes[b] >= ((_SAFE_HIGH + 1) << 23):
                _slow_micro(x, r, b * _LANES, (b + 1) * _LANES, out, amaxes[b], magnitude_bits)
        if whole * _LANES < columns:
            top = _largest(x, r, whole * _LANES, columns)
            worst = max(worst, top)
            _slow_micro(x, r, whole * _LANES, columns, out, top, magnitude_bits)
    return worst


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _slow_micro(x, r, start, stop, out, top, magnitude_bits):
    """One block of any length and any magnitude, in float64."""
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


@numba.njit(error_model="numpy", nogil=True, cache=True, inline="always")
def _nvfp4_scale(top, coarse):
    """Return the E4M3 scale in [2^-9, 448] of a block (1 of zeros) times the tensor scale."""
    wanted = min(max(N(top).view(F) / (F(6.0) * coarse), F(2.0**-9)), F(448.0))
    c = N(max(F(wanted).view(N) & _EXPONENT, N(121 << 23)) + N((20 << 23) | _HALF)).view(F)
    return ((wanted + c) - c if top > 0 else F(1.0)) * coarse


@numba.njit(error_model="numpy", nogil=True, cache=True, inline="always")
def _nvfp4_value(v, scale):
    """Return v / scale rounded to E2M1, times scale."""
    q = min(max(v / scale, F(-6.0)), F(6.0))
    c = N(max(F(q).view(N) & _EXPONENT, N(127 << 23)) + N((22 << 23) | _HALF)).view(F)
    q = ((q + c) - c) * scale
    return N((F(q).view(N) & _ABS) | (F(v).view(N) & _SIGN)).view(F)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def nvfp4(x, first, last, out, coarse):
    """NVFP4 under the tensor scale `coarse`: blocks of 16 E2M1 numbers with an E4M3 scale."""
    columns, whole, worst = x.shape[1], x.shape[1] // _LANES, N(0)
    amaxes, scales = np.empty(whole, dtype=N), np.empty(whole, dtype=F)
    for r in range(first, last):
        row, to = x[r], out[r]
        amax16(row, amaxes)
        for b in range(whole):
            worst = max(worst, amaxes[b])
            scales[b] = _nvfp4_scale(amaxes[b], coarse)
        for c in range(whole // 2):
            s, t = scales[2 * c], scales[2 * c + 1]
            for k in range(_MX):
                to[c * _MX + k] = _nvfp4_value(row[c * _MX + k], s if k < _LANES else t)
        for b in range(whole // 2 * 2, -(-columns // _LANES)):
            stop = min((b + 1) * _LANES, columns)
            top = _largest(x, r, b * _LANES, stop)
            worst, scale = max(worst, top), _nvfp4_scale(top, coarse)
            for j in range(b * _LANES, stop):
                to[j] = _nvfp4_value(row[j], scale)
    return worst
