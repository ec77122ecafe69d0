"""The compiled search of block scales (OCP MX, NVFP4), with the bits of `quant_core.codecs.scale_search`; conventions as in `fused`.

The magnitudes of a row are turned, [block, blocks], so that a long loop runs over the blocks: LLVM makes vector instructions of it, and the
squares of a block add up in the order of its elements.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, operator"

import numba
import numpy as np

F, N = np.float32, np.int32
_SIGN, _EXPONENT, _HALF = N(-0x80000000), N(0x7F800000), N(0x400000)
_LANES, _PAIR = 16, 32
_LOWEST, _BEYOND = F(2.0**-79), F(2.0**81)


@numba.njit(error_model="numpy", nogil=True, cache=True, inline="always")
def _round(q, smallest, magic):
    """Return `q` >= 0 rounded to nearest even in the step of its power of two, or of the `smallest`: adding 1.5 x 2^23 steps rounds."""
    c = max(N(F(q).view(N) & _EXPONENT).view(F), smallest) * magic  # powers of two are compared as floats: integers become 64 bits wide
    return (q + c) - c


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _turn(row, out, top):
    """Write the magnitudes of `row` [C] to `out` [block, blocks], and the largest of every block; `out` has zeros where the row ends."""
    block, blocks = out.shape
    whole = len(row) // block
    for k in range(block):
        for b in range(whole):
            out[k, b] = np.abs(row[b * block + k])
    for j in range(whole * block, len(row)):
        out[j - whole * block, whole] = np.abs(row[j])
    top[:] = out[0]
    for k in range(1, block):
        part = out[k]
        for b in range(blocks):
            top[b] = max(top[b], part[b])


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _own_scale(top, coarse, emax, base):
    """Write the places of the scales of the format's own rule: E4M3 codes of top / (6 coarse), or with `emax` E8M0 codes."""
    if emax >= 0:
        for b in range(len(top)):
            base[b] = max(N(F(top[b]).view(N) >> 23) - emax, N(0))
        return
    step = F(6.0) * coarse
    for b in range(len(top)):
        scale = _round(min(max(top[b] / step, F(2.0**-9)), F(448.0)), F(2.0**-6), F(1.5 * 2.0**20))
        normal, small = N(F(scale).view(N) >> 20) - N(120 << 3), N(scale * F(512.0))
        place = normal if scale >= F(2.0**-6) else small
        base[b] = place if top[b] > F(0.0) else N(56)


@numba.njit(error_model="numpy", nogil=True, cache=True, inline="always")
def _square(v, smallest, magic, largest):
    """Return the squared error of `v` >= 0, in steps of its scale."""
    d = _round(min(v, largest), smallest, magic) - v
    return d * d


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _errors(turned, weights, inverse, smallest, magic, largest, sums):
    """Write the sums over every block of the squared errors in steps of its scale, times `weights` where they are given; in order."""
    sums[:] = F(0.0)
    for k in range(0, len(turned), 4):
        p, q, r, s = turned[k], turned[k + 1], turned[k + 2], turned[k + 3]
        if weights is None:
            for b in range(len(sums)):
                i, total = inverse[b], sums[b]
                total += _square(p[b] * i, smallest, magic, largest)
                total += _square(q[b] * i, smallest, magic, largest)
                total += _square(r[b] * i, smallest, magic, largest)
                total += _square(s[b] * i, smallest, magic, largest)
                sums[b] = total
        else:
            for j in range(4):
                part, weight = turned[k + j], weights[k + j]
                for b in range(len(sums)):
                    sums[b] += _square(part[b] * inverse[b], smallest, magic, largest) * weight[b]


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _places(base, offset, ends, scales, inverses, scale, inverse):
    """Write the scales at the places `offset` from `base`, within `ends`, and their inverses."""
    low, high, away = N(ends[0]), N(ends[1]), N(offset)
    for b in range(len(scale)):
        place = np.uint32(min(max(N(base[b] + away), low), high))
        scale[b] = scales[place]
        inverse[b] = inverses[place]


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _begin(sums, top, least):
    """Write the errors at the format's own scales, none of a block out of range or with NaN; tell whether there is such a block."""
    beyond = N(0)
    for b in range(len(sums)):
        usable = (top[b] == F(0.0)) | ((top[b] >= _LOWEST) & (top[b] < _BEYOND) & (sums[b] == sums[b]))
        beyond += N(0) if usable else N(1)
        least[b] = sums[b] if usable else F(-1.0)
    return beyond > N(0)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _choose(sums, scale, base_inverse, offset, least, best):
    """Keep the offsets where the error is below the least. Errors are in squares of the scales at the base: none overflows."""
    for b in range(len(sums)):
        ratio = scale[b] * base_inverse[b]
        error, least_here = sums[b] * ratio * ratio, least[b]
        better = error < least_here
        least[b] = error if better else least_here
        best[b] = offset if better else best[b]


@numba.njit(error_model="numpy", nogil=True, cache=True)
def _write(row, to, scale, block, smallest, magic, largest, signed_zero):
    whole = len(row) // _PAIR
    for c in range(whole):
        left = c if block == _PAIR else 2 * c
        right = c if block == _PAIR else 2 * c + 1
        s, t = scale[left], scale[right]
        for k in range(_PAIR):
            v, z = row[c * _PAIR + k], s if k < _LANES else t
            q = _round(min(np.abs(v) / z, largest), smallest, magic) * z
            value = N(F(q).view(N) | (F(v).view(N) & _SIGN)).view(F)
            to[c * _PAIR + k] = value if signed_zero else value + F(0.0)
    for j in range(whole * _PAIR, len(row)):
        v, z = row[j], scale[j // block]
        q = _round(min(np.abs(v) / z, largest), smallest, magic) * z
        value = N(F(q).view(N) | (F(v).view(N) & _SIGN)).view(F)
        to[j] = value if signed_zero else value + F(0.0)


@numba.njit(error_model="numpy", nogil=True, cache=True)
def search(x, first, last, out, weights, index, table, coarse, block, offsets, ends, emax, element, signed_zero):
    """Write the places in `table` of the scales of least squared error to `index`, and the values to `out` where it is as large as `x`.

    Blocks whose largest magnitude is out of [2^-79, 2^81) keep the format's own scale. Returns whether there is such a block, or one that
    holds NaN.

    Args:
        x: [R, C]. weights: like `x`, or None.
        index: int32 [R, B], written; or empty.
        table: float32 [T], ascending; `coarse` is a factor of all.
        offsets: int32, the distances from the format's own scale to try, the first 0. ends: the smallest and the largest place.
        emax: -1 for E4M3 scales; else the largest exponent of an element, under powers of two.
        element: (mantissa bits, smallest exponent, largest value) of the numbers in a block. signed_zero: whether -0 is one.
    """
    mantissa, emin, largest = N(element[0]), N(element[1]), F(element[2])
    smallest, magic = N((emin + N(127)) << 23).view(F), N(((N(150) - mantissa) << 23) | _HALF).view(F)
    blocks = -(-x.shape[1] // block)
    turned = np.zeros((block, blocks), dtype=F)
    w = np.zeros((block, blocks), dtype=F)
    base, best = np.empty(blocks, dtype=N), np.empty(blocks, dtype=N)
    top, scale, inverse = np.empty(blocks, dtype=F), np.empty(blocks, dtype=F), np.empty(blocks, dtype=F)
    base_inverse, sums, least = np.empty(blocks, dtype=F), np.empty(blocks, dtype=F), np.empty(blocks, dtype=F)
    scales = table * coarse
    inverses = F(1.0) / scales
    beyond = False
    for r in range(first, last):
        if weights is not None:
            _turn(weights[r], w, top)
        _turn(x[r], turned, top)
        _own_scale(top, coarse, emax, base)
        for offset in offsets:
            _places(base, offset, ends, scales, inverses, scale, inverse)
            _errors(turned, None if weights is None else w, inverse, smallest, magic, largest, sums)
            if offset == 0:
                base_inverse[:], best[:] = inverse, N(0)
                beyond |= _begin(sums, top, least)
            else:
                _choose(sums, scale, base_inverse, N(offset), least, best)
        for b in range(blocks):
            best[b] = min(max(N(base[b] + best[b]), N(ends[0])), N(ends[1]))
            scale[b] = scales[best[b]]
        if index.size:
            index[r] = best
        if out.shape == x.shape:
            _write(x[r], out[r], scale, block, smallest, magic, largest, signed_zero)
    return beyond
