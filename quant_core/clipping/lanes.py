"""The squared error of rounding, in 64 lanes of float32 that stay in registers, and the rows that it runs over.

Numba's own code for 64 lanes in memory takes five times as long: here LLVM is given vectors of 64, which it cuts into the registers that
the processor has. Element j goes to lane j mod 64, in the order of j, without fused multiply-adds: the bits
are the same on every machine.
"""

# ruff: noqa: ANN001, ANN201, ANN202, ARG001
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

LANES = 64
_FLOAT, _INDEX = ir.FloatType(), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)


def padded(matrix, row):
    """Return a row of a matrix with zeros up to a multiple of 64 elements, None of None. A zero adds nothing to any sum: 0 is a code."""
    raise NotImplementedError("a function of compiled loops")


@overload(padded)
def _padded(matrix, row):
    def copied(matrix, row):
        x = np.zeros(-(-matrix.shape[1] // LANES) * LANES, dtype=np.float32)
        x[: matrix.shape[1]] = matrix[row]
        return x

    def nothing(matrix, row):
        return None

    return nothing if isinstance(matrix, types.NoneType) else copied


@intrinsic
def add_errors(_typing, x, w, start, stop, scale, low, high, sums):
    """Write to sums[0:64], [64:128] and [128:192] the lanes of w r^2, w r k and w k^2; return the three sums of lanes, of float32.

    k = clamp(round(x / scale), low, high) and r = x - k scale, for x[start:stop]; `stop - start` is a multiple of 64. `w` may be None.
    The sums that are returned add lanes in pairs: they differ from any other order by at most 2^-21 of the sum of magnitudes.
    """
    signature = types.UniTuple(types.float32, 3)(x, w, types.intp, types.intp, types.float32, types.float32, types.float32, sums)
    return signature, _add_errors


def _add_errors(context, builder, signature, arguments):
    x, w, start, stop, scale, low, high, sums = arguments
    kinds = signature.args[0], signature.args[1], signature.args[-1]
    points, weights, target = (_data(context, builder, *array) for array in zip(kinds, (x, w, sums), strict=True))
    inverse = _spread(builder, builder.fdiv(ir.Constant(_FLOAT, 1.0), scale))
    scale, low, high = (_spread(builder, value) for value in (scale, low, high))
    lanes = [cgutils.alloca_once(builder, _VECTOR) for _ in range(3)]
    for place in lanes:
        builder.store(ir.Constant(_VECTOR, None), place)
    with cgutils.for_range_slice(builder, start, stop, ir.Constant(start.type, LANES), intp=start.type) as (index, _):
        values = _load(builder, points, index)
        codes = builder.fmul(values, inverse)
        codes = builder.select(builder.fcmp_ordered("<", codes, low), low, codes)
        codes = builder.select(builder.fcmp_ordered(">", codes, high), high, codes)
        codes = _rint(builder, codes)
        rest = builder.fsub(values, builder.fmul(codes, scale))
        weighted = (rest, codes)
        if weights is not None:
            weight = _load(builder, weights, index)
            weighted = tuple(builder.fmul(weight, part) for part in weighted)
        for place, one, other in zip(lanes, (weighted[0], weighted[0], weighted[1]), (rest, codes, codes), strict=True):
            builder.store(builder.fadd(builder.load(place), builder.fmul(one, other)), place)
    totals = [builder.load(place) for place in lanes]
    for number, total in enumerate(totals):
        builder.store(total, _vector_at(builder, target, ir.Constant(start.type, number * LANES)), align=4)
    return context.make_tuple(builder, signature.return_type, [_sum_in_pairs(builder, total) for total in totals])


def _data(context, builder, kind, value) -> Any:
    """Return the address of the first element, or None for None."""
    return None if isinstance(kind, types.NoneType) else context.make_array(kind)(context, builder, value).data


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
