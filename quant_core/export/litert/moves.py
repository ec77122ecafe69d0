"""Operators of LiteRT that move values, reduce axes and change types."""

from collections.abc import Sequence

import numpy as np

from quant_core.export.litert.elementwise import common_order, operand
from quant_core.export.litert.translation import Node, Operator, Order, Translation, Value, ascending, attributes, refuse

REDUCED = {
    "ReduceMean": "MEAN",
    "ReduceSum": "SUM",
    "ReduceMax": "REDUCE_MAX",
    "ReduceMin": "REDUCE_MIN",
    "ReduceProd": "REDUCE_PROD",
    "ReduceL2": "SUM",
    "ReduceSumSquare": "SUM",
}
_END = 2**31 - 1


def _constants(t: Translation, node: Node, *places: int) -> list[list[int]]:
    """Return constant inputs of a node as lists; of inputs that are left out an empty one."""
    rows = []
    for place in places:
        name = node.input[place] if place < len(node.input) else ""
        array = t.array(name) if name else np.zeros(0, dtype=np.int64)
        if array is None:
            raise refuse(node, "a shape, an axis or a position depends on the data")
        rows.append([int(number) for number in array.reshape(-1)])
    return rows


def _alias(t: Translation, node: Node) -> None:
    """Give the node's output what its input is: codes or a value."""
    if (codes := t.codes(node.input[0])) is not None:
        t.bind_codes(node.output[0], codes)
    else:
        t.bind(node.output[0], t.value(node.input[0]))


def _transpose(t: Translation, node: Node) -> None:
    """Give the axes other names; nothing is moved until an operator needs another order."""
    axes = [int(axis) for axis in attributes(node).get("perm", range(len(t.shape(node.input[0])))[::-1])]
    codes = t.codes(node.input[0])
    value = codes or t.value(node.input[0])
    renamed = Value(value.place, tuple(axes.index(axis) for axis in value.order))
    (t.bind if codes is None else t.bind_codes)(node.output[0], renamed)


def _reshape(t: Translation, node: Node) -> None:
    name, value = node.output[0], t.value(node.input[0])
    shape = t.shape(node.input[0])
    straight = ascending([axis for axis in value.order if shape[axis] != 1])
    place = value.place if straight else t.place(node.input[0])
    t.bind(name, Value(t.reshape(place, t.shape(name), name), tuple(range(len(t.shape(name))))))


def _cast(t: Translation, node: Node) -> None:
    source, target = (t.facts.kinds[name] for name in (node.input[0], node.output[0]))
    if t.codes(node.input[0]) is not None or source == target:
        _alias(t, node)
        return
    value = t.value(node.input[0])
    t.emit("CAST", [value.place], node.output[0], value.order, ("Cast", {"inDataType": source, "outDataType": target}))


def _concat(t: Translation, node: Node) -> None:
    name = node.output[0]
    rank = len(t.shape(name))
    order = common_order(t, node.input, rank)
    places = [t.place(source, order) for source in node.input]
    axis = order.index(int(attributes(node)["axis"]) % rank)
    t.emit("CONCATENATION", places, name, order, ("Concatenation", {"axis": axis, "fusedActivationFunction": "NONE"}), like=places[0])


def _sliced(t: Translation, value: Value, name: str, begins: Sequence[int]) -> None:
    """Give the part of a value that begins at these places of ONNX's axes and has the shape of `name`."""
    begin = t.integers([begins[axis] for axis in value.order])
    size = t.integers([t.shape(name)[axis] for axis in value.order])
    t.emit("SLICE", [value.place, begin, size], name, value.order, like=value.place)


def _split(t: Translation, node: Node) -> None:
    value, rank = t.value(node.input[0]), len(t.shape(node.input[0]))
    axis, begin = int(attributes(node).get("axis", 0)) % rank, 0
    for name in node.output:
        _sliced(t, value, name, [begin if place == axis else 0 for place in range(rank)])
        begin += t.shape(name)[axis]


def _slice(t: Translation, node: Node) -> None:
    value, shape = t.value(node.input[0]), t.shape(node.input[0])
    starts, ends, axes, steps = _constants(t, node, 1, 2, 3, 4)
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    begins, strides, last = [0] * len(shape), [1] * len(shape), list(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise refuse(node, "a slice runs backwards")
        begins[axis], last[axis], _ = slice(start, end).indices(shape[axis])
        strides[axis] = step
    if set(strides) == {1}:
        _sliced(t, value, node.output[0], begins)
        return
    places = [t.integers([numbers[axis] for axis in value.order]) for numbers in (begins, last, strides)]
    masks = dict.fromkeys(("beginMask", "endMask", "ellipsisMask", "newAxisMask", "shrinkAxisMask"), 0)
    t.emit("STRIDED_SLICE", [value.place, *places], node.output[0], value.order, ("StridedSlice", masks), like=value.place)


def _gather(t: Translation, node: Node) -> None:
    """Look rows up: of codes by their own operator, which gives floats."""
    codes, rank = t.codes(node.input[0]), len(t.shape(node.input[0]))
    axis, name = int(attributes(node).get("axis", 0)) % rank, node.output[0]
    indices = t.array(node.input[1])
    if indices is not None:
        wrapped = np.where(indices < 0, indices + t.shape(node.input[0])[axis], indices)
        places = t.constant(wrapped.astype(np.int32))
    else:
        places = t.place(node.input[1])
    if codes is not None and axis == 0 and rank == 2 and codes.order == (0, 1):
        _looked_up(t, codes.place, places, name)
        return
    t.emit("GATHER", [t.place(node.input[0]), places], name, (), ("Gather", {"axis": axis, "batchDims": 0}))


def _looked_up(t: Translation, codes: int, indices: int, name: str) -> None:
    shape = t.tensor(indices).shape
    if t.tensor(indices).kind != "INT32":
        options = ("Cast", {"inDataType": t.tensor(indices).kind, "outDataType": "INT32"})
        indices = t.operation("CAST", [indices], shape, "INT32", name, options)
    count, columns = int(np.prod(shape, dtype=np.int64)), t.tensor(codes).shape[1]
    rows = t.operation("EMBEDDING_LOOKUP", [t.reshape(indices, [count], name), codes], [count, columns], "FLOAT32", name)
    t.bind(name, Value(t.reshape(rows, t.shape(name), name), tuple(range(len(shape) + 1))))


def _where(t: Translation, node: Node) -> None:
    name = node.output[0]
    order = common_order(t, node.input, len(t.shape(name)))
    t.emit("SELECT_V2", [operand(t, source, order) for source in node.input], name, order, ("SelectV2", {}))


def _triangle(t: Translation, node: Node) -> None:
    """Keep the upper or lower part of matrices, by a mask."""
    value, name = t.value(node.input[0]), node.output[0]
    (places,) = _constants(t, node, 1)
    first = places[0] if places else 0
    ones = np.ones(t.shape(name)[-2:], dtype=np.bool_)
    mask = np.triu(ones, first) if attributes(node).get("upper", 1) else np.tril(ones, first)
    masks = t.constant(mask.reshape((1,) * (len(value.order) - 2) + mask.shape).transpose(value.order))
    nothing = t.constant(np.zeros((1,) * len(value.order), dtype=np.float32))
    t.emit("SELECT_V2", [masks, value.place, nothing], name, value.order, ("SelectV2", {}))


def _expand(t: Translation, node: Node) -> None:
    name = node.output[0]
    order: Order = tuple(range(len(t.shape(name))))
    place = operand(t, node.input[0], order)
    if t.tensor(place).shape == t.shape(name):
        t.bind(name, Value(place, order))
        return
    t.emit("BROADCAST_TO", [place, t.integers(t.shape(name))], name, order, ("BroadcastTo", {}))


def _tile(t: Translation, node: Node) -> None:
    value, (repeats,) = t.value(node.input[0]), _constants(t, node, 1)
    t.emit("TILE", [value.place, t.integers([repeats[axis] for axis in value.order])], node.output[0], value.order, ("Tile", {}))


def _pad(t: Translation, node: Node) -> None:
    value, mode = t.value(node.input[0]), attributes(node).get("mode", "constant")
    amounts, axes = _constants(t, node, 1, 3)
    rank = len(value.order)
    pairs = dict.fromkeys(range(rank), (0, 0))
    for i, axis in enumerate(axes or range(rank)):
        pairs[axis % rank] = (amounts[i], amounts[i + len(amounts) // 2])
    if any(min(pair) < 0 for pair in pairs.values()) or mode not in ("constant", "reflect"):
        raise refuse(node, "it pads by a constant or by reflection, and takes nothing off")
    amount = t.constant(np.array([pairs[axis] for axis in value.order], dtype=np.int32))
    number = t.scalar(node.input[2]) if len(node.input) > 2 and node.input[2] else 0.0
    if mode == "reflect":
        t.emit("MIRROR_PAD", [value.place, amount], node.output[0], value.order, ("MirrorPad", {"mode": "REFLECT"}))
    elif number == 0.0:
        t.emit("PAD", [value.place, amount], node.output[0], value.order, ("Pad", {}))
    else:
        filling = t.constant(np.array(number, dtype=np.float32))
        t.emit("PADV2", [value.place, amount, filling], node.output[0], value.order, ("PadV2", {}))


def _reduce(t: Translation, node: Node) -> None:
    facts, rank = attributes(node), len(t.shape(node.input[0]))
    (axes,) = _constants(t, node, 1) if len(node.input) > 1 else ([int(axis) for axis in facts.get("axes", ())],)
    if not axes and facts.get("noop_with_empty_axes", 0):
        _alias(t, node)
        return
    reduced(t, node, REDUCED[node.op_type], [axis % rank for axis in axes or range(rank)], keep=bool(facts.get("keepdims", 1)))


def reduced(t: Translation, node: Node, code: str, axes: Sequence[int], *, keep: bool) -> None:
    """Give the node's output: its input, or the squares of its values, reduced over some of ONNX's axes."""
    value, name = t.value(node.input[0]), node.output[0]
    kept = [axis for axis in value.order if keep or axis not in axes]
    order = tuple(sorted(kept).index(axis) for axis in kept)
    places = t.integers(sorted(value.order.index(axis) for axis in axes))
    source, place = t.tensor(value.place), value.place
    if node.op_type in ("ReduceL2", "ReduceSumSquare"):
        none = {"fusedActivationFunction": "NONE"}
        place = t.operation("MUL", [place, place], source.shape, source.kind, name, ("Mul", none))
    shape = [t.shape(name)[axis] for axis in order]
    place = t.operation(code, [place, places], shape, source.kind, name, ("Reducer", {"keepDims": keep}))
    if node.op_type == "ReduceL2":
        place = t.operation("SQRT", [place], shape, source.kind, name)
    t.bind(name, Value(place, order))


def _arg_max(t: Translation, node: Node) -> None:
    facts, value = attributes(node), t.value(node.input[0])
    axis, name = facts.get("axis", 0) % len(value.order), node.output[0]
    kept = [other for other in value.order if other != axis]
    shape = [t.shape(node.input[0])[other] for other in kept]
    options = ("ArgMax", {"outputType": "INT64"})
    place = t.operation("ARG_MAX", [value.place, t.integers([value.order.index(axis)])], shape, "INT64", name, options)
    plain = t.ordered(Value(place, tuple(sorted(kept).index(other) for other in kept)), tuple(range(len(kept))))
    t.bind(name, Value(t.reshape(plain, t.shape(name), name), tuple(range(len(t.shape(name))))))


def _softmax(t: Translation, node: Node) -> None:
    value = t.value(node.input[0])
    axis = attributes(node).get("axis", -1) % len(value.order)
    order = (*(other for other in value.order if other != axis), axis)
    code, options = ("SOFTMAX", ("Softmax", {"beta": 1.0})) if node.op_type == "Softmax" else ("LOG_SOFTMAX", None)
    t.emit(code, [t.ordered(value, order)], node.output[0], order, options)


def _resize(t: Translation, node: Node) -> None:
    facts, order = attributes(node), (0, 2, 3, 1)
    mode, places = facts.get("mode", "nearest"), facts.get("coordinate_transformation_mode", "half_pixel")
    shape = t.shape(node.output[0])
    if len(shape) != 4 or shape[:2] != t.shape(node.input[0])[:2] or mode not in ("nearest", "linear"):
        raise refuse(node, "it resizes rows and columns of images alone, by the nearest or linearly")
    if mode == "nearest" and (places, facts.get("nearest_mode", "round_prefer_floor")) != ("asymmetric", "floor"):
        raise refuse(node, "its nearest pixel is the one before")
    code = "RESIZE_BILINEAR" if mode == "linear" else "RESIZE_NEAREST_NEIGHBOR"
    options = {"alignCorners": places == "align_corners", "halfPixelCenters": places in ("half_pixel", "pytorch_half_pixel")}
    name = "ResizeBilinear" if mode == "linear" else "ResizeNearestNeighbor"
    t.emit(code, [t.place(node.input[0], order), t.integers(shape[2:])], node.output[0], order, (name, options))


def _depth_to_space(t: Translation, node: Node) -> None:
    """Move channels between pixels by reshapes around a transposition."""
    facts, (count, channels, height, width) = attributes(node), t.shape(node.input[0])
    block = int(facts["blocksize"])
    inner = (count, channels // block**2, block, block, height, width)
    if facts.get("mode", "DCR") == "DCR":
        inner, axes = (count, block, block, channels // block**2, height, width), (0, 3, 4, 1, 5, 2)
    else:
        axes = (0, 1, 4, 2, 5, 3)
    name = node.output[0]
    place = t.transpose(t.reshape(t.place(node.input[0]), inner, name), axes)
    t.bind(name, Value(t.reshape(place, t.shape(name), name), (0, 1, 2, 3)))


def _cum_sum(t: Translation, node: Node) -> None:
    facts, value = attributes(node), t.value(node.input[0])
    ((axis,),) = _constants(t, node, 1)
    place = t.constant(np.array(value.order.index(axis % len(value.order)), dtype=np.int32))
    options = {"exclusive": bool(facts.get("exclusive", 0)), "reverse": bool(facts.get("reverse", 0))}
    t.emit("CUMSUM", [value.place, place], node.output[0], value.order, ("Cumsum", options))


OPERATORS: dict[str, Operator] = {
    **dict.fromkeys(REDUCED, _reduce),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("Identity", "Dropout"), _alias),
    "ArgMax": _arg_max,
    "Cast": _cast,
    "Concat": _concat,
    "CumSum": _cum_sum,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Gather": _gather,
    "Pad": _pad,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Where": _where,
}
