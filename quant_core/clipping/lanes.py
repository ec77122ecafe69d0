"""The squared error of rounding, in 64 lanes of float32 that stay in registers, and the memory that it runs over.

Numba's own code for 64 lanes in memory takes five times as long: here LLVM is given vectors of 64, which it cuts into the registers that
the processor has. Element j goes to lane j mod 64, in the order of j, without fused multiply-adds: the bits are the same on every machine.

A search copies one row at a time into a work space [192 + n or 192 + 2 n] of float32: the lanes of the last sums, the row with zeros up to
n, a multiple of 64 (a zero adds nothing to any sum, as 0 is always a code), and its weights if there are any. Functions get its address:
an array as an argument costs as much as the sums over a short row, for the counting of references.
"""

# ruff: noqa: ANN001, ANN201, ANN202, ARG001, ARG005
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, attr-defined"

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

LANES = 64
_FLOAT, _DOUBLE, _INDEX = ir.FloatType(), ir.DoubleType(), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)


def work_space(points, weights):
    """Return the work space for the rows of `points` [B, n] with `weights` [B, n] or None, for `load`."""
    raise NotImplementedError("a function of compiled loops")


def load(space, points, weights, row):
    """Copy a row and its weights into the work space."""
    raise NotImplementedError("a function of compiled loops")


def place_of(space, points, weights):
    """Return (address, padded length, None or True where there are weights) of a work space. It must outlive the address."""
    raise NotImplementedError("a function of compiled loops")


@numba.njit(nogil=True, cache=True)
def padded(count):
    """Return `count` rounded up to whole lanes."""
    return -(-count // LANES) * LANES


@overload(work_space)
def _work_space(points, weights):
    parts = 1 if isinstance(weights, types.NoneType) else 2
    return lambda points, weights: np.zeros(3 * LANES + parts * padded(points.shape[1]), dtype=np.float32)


@overload(load)
def _load_row(space, points, weights, row):
    def row_alone(space, points, weights, row):
        space[3 * LANES : 3 * LANES + points.shape[1]] = points[row]

    def row_and_weights(space, points, weights, row):
        first, second, count = 3 * LANES, 3 * LANES + padded(points.shape[1]), points.shape[1]
        space[first : first + count] = points[row]
        space[second : second + count] = weights[row]

    return row_alone if isinstance(weights, types.NoneType) else row_and_weights


@overload(place_of)
def _place_of(space, points, weights):
    weighted = None if isinstance(weights, types.NoneType) else True
    return lambda space, points, weights: (types.intp(space.ctypes.data), padded(points.shape[1]), weighted)


@intrinsic
def add_errors(_typing, place, start, stop, scale, low, high):
    """Put the lanes of w r^2, w r k and w k^2 into the work space at `place`; return the three sums of lanes, of float32.

    k = clamp(round(x / scale), low, high) and r = x - k scale, for x[start:stop]; `stop - start` is a multiple of 64. The sums that are
    returned add lanes in pairs: they differ from any other order by at most 2^-21 of the sum of magnitudes.
    """
    return types.UniTuple(types.float32, 3)(place, types.intp, types.intp, types.float32, types.float32, types.float32), _add_errors


def _add_errors(context, builder, signature, arguments):
    place, start, stop, scale, low, high = arguments
    address, count, _ = cgutils.unpack_tuple(builder, place)
    sums = builder.inttoptr(address, _FLOAT.as_pointer())
    x = builder.gep(sums, [ir.Constant(start.type, 3 * LANES)])
    w = None if isinstance(signature.args[0][2], types.NoneType) else builder.gep(x, [count])
    inverse = _spread(builder, builder.fdiv(ir.Constant(_FLOAT, 1.0), scale))
    scale, low, high = (_spread(builder, value) for value in (scale, low, high))
    lanes = [cgutils.alloca_once(builder, _VECTOR) for _ in range(3)]
    for total in lanes:
        builder.store(ir.Constant(_VECTOR, None), total)
    with cgutils.for_range_slice(builder, start, stop, ir.Constant(start.type, LANES), intp=start.type) as (index, _):
        values = _load(builder, x, index)
        codes = builder.fmul(values, inverse)
        codes = builder.select(builder.fcmp_ordered("<", codes, low), low, codes)
        codes = builder.select(builder.fcmp_ordered(">", codes, high), high, codes)
        codes = _rint(builder, codes)
        rest = builder.fsub(values, builder.fmul(codes, scale))
        left = (rest, codes) if w is None else [builder.fmul(_load(builder, w, index), part) for part in (rest, codes)]
        for total, one, other in zip(lanes, (left[0], left[0], left[1]), (rest, codes, codes), strict=True):
            builder.store(builder.fadd(builder.load(total), builder.fmul(one, other)), total)
    totals = [builder.load(total) for total in lanes]
    for number, total in enumerate(totals):
        builder.store(total, _vector_at(builder, sums, ir.Constant(start.type, number * LANES)), align=4)
    return context.make_tuple(builder, signature.return_type, [_sum_in_pairs(builder, total) for total in totals])


@intrinsic
def add_lanes(_typing, place, error, cross, square):
    """Return the three float64 figures plus the lanes in the work space at `place`, added one after another."""
    return types.UniTuple(types.float64, 3)(place, types.float64, types.float64, types.float64), _add_lanes


def _add_lanes(context, builder, signature, arguments):
    address = cgutils.unpack_tuple(builder, arguments[0])[0]
    lanes = builder.inttoptr(address, _FLOAT.as_pointer())
    totals = [cgutils.alloca_once(builder, _DOUBLE) for _ in range(3)]
    for total, start in zip(totals, arguments[1:], strict=True):
        builder.store(start, total)
    with cgutils.for_range(builder, ir.Constant(address.type, LANES)) as loop:
        for number, total in enumerate(totals):
            at = builder.add(loop.index, ir.Constant(address.type, number * LANES))
            lane = builder.fpext(builder.load(builder.gep(lanes, [at])), _DOUBLE)
            builder.store(builder.fadd(builder.load(total), lane), total)
    return context.make_tuple(builder, signature.return_type, [builder.load(total) for total in totals])


def _vector_at(builder, data, index):
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


def _load(builder, data, index):
    return builder.load(_vector_at(builder, data, index), align=4)


def _spread(builder, value):
    """Return a vector that holds `value` in every lane."""
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_INDEX, LANES), [0] * LANES))


def _rint(builder, vector):
    kind = ir.FunctionType(_VECTOR, [_VECTOR])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.rint.v{LANES}f32"), [vector])


def _sum_in_pairs(builder, vector):
    count = LANES
    while count > 1:
        count //= 2
        halves = (ir.Constant(ir.VectorType(_INDEX, count), [*range(first, first + count)]) for first in (0, count))
        undefined = ir.Constant(vector.type, ir.Undefined)
        vector = builder.fadd(*(builder.shuffle_vector(vector, undefined, half) for half in halves))
    return builder.extract_element(vector, ir.Constant(_INDEX, 0))
