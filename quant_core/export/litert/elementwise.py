"""Operators of LiteRT that compute element by element, and sums of such: activation functions, arithmetic, norms."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quant_core.export.litert.translation import FUSED, Node, Operator, Options, Order, Translation, Value, attributes, refuse

UNARY = {
    "Abs": "ABS",
    "Ceil": "CEIL",
    "Cos": "COS",
    "Elu": "ELU",
    "Exp": "EXP",
    "Floor": "FLOOR",
    "HardSwish": "HARD_SWISH",
    "Log": "LOG",
    "Neg": "NEG",
    "Not": "LOGICAL_NOT",
    "Round": "ROUND",
    "Sigmoid": "LOGISTIC",
    "Sign": "SIGN",
    "Sin": "SIN",
    "Sqrt": "SQRT",
    "Tanh": "TANH",
}
BINARY: dict[str, tuple[str, str]] = {
    "Add": ("ADD", "Add"),
    "Sub": ("SUB", "Sub"),
    "Mul": ("MUL", "Mul"),
    "Div": ("DIV", "Div"),
    "Pow": ("POW", "Pow"),
    "Max": ("MAXIMUM", "MaximumMinimum"),
    "Min": ("MINIMUM", "MaximumMinimum"),
    "Equal": ("EQUAL", "Equal"),
    "Less": ("LESS", "Less"),
    "LessOrEqual": ("LESS_EQUAL", "LessEqual"),
    "Greater": ("GREATER", "Greater"),
    "GreaterOrEqual": ("GREATER_EQUAL", "GreaterEqual"),
    "And": ("LOGICAL_AND", "LogicalAnd"),
    "Or": ("LOGICAL_OR", "LogicalOr"),
}
"""ONNX's name -> the schema's, and that of its options."""
_CLIPS = {**FUSED, (0.0, 1.0): "RELU_0_TO_1"}
_FUSE = ("ADD", "SUB", "MUL", "DIV")


def common_order(t: Translation, names: Sequence[str], rank: int) -> Order:
    """Return the order of the axes in which operands of at most `rank` axes are best read: that of the largest one which is no constant."""
    values = [t.value(name) for name in names if t.array(name) is None and len(t.shape(name)) == rank]
    sizes = [int(np.prod(t.tensor(value.place).shape)) for value in values]
    return values[int(np.argmax(sizes))].order if values else tuple(range(rank))


def operand(t: Translation, name: str, order: Order) -> int:
    """Return the place of an operand with as many axes as `order` has, in that order."""
    shape, array = t.shape(name), t.array(name)
    lifted = (1,) * (len(order) - len(shape)) + shape
    if array is not None:
        return t.constant(array.reshape(lifted).transpose(order), name if len(shape) == len(order) else "")
    if len(shape) == len(order):
        return t.place(name, order)
    place = t.reshape(t.place(name), lifted, name)
    return t.ordered(Value(place, tuple(range(len(order)))), order)


def _unary(t: Translation, node: Node) -> None:
    if node.op_type == "Elu" and attributes(node).get("alpha", 1.0) != 1.0:
        raise refuse(node, "its ELU has an alpha of 1 alone")
    value = t.value(node.input[0])
    t.emit(UNARY[node.op_type], [value.place], node.output[0], value.order)


def _binary(t: Translation, node: Node) -> None:
    if len(node.input) != 2:
        raise refuse(node, "its maximum and minimum are those of two values")
    code, options = BINARY[node.op_type]
    name = node.output[0]
    order = common_order(t, node.input, len(t.shape(name)))
    places = [operand(t, source, order) for source in node.input]
    fused: dict[str, str] = {}
    if code in _FUSE:
        kind = t.facts.kinds[name]
        word, name = t.activation(name) if kind == "FLOAT32" else ("NONE", name)
        fused = {"fusedActivationFunction": word}
    t.emit(code, places, name, order, (options, fused))


def _clip(t: Translation, node: Node) -> None:
    """Write a Relu or Clip; of codes, too, whose ends are codes of the same grid."""
    limits, value = t.limits(node), t.value(node.input[0])
    if limits is None:
        raise refuse(node, "the ends of a clip depend on the data")
    source = t.tensor(value.place)
    if source.scale is None and (code := _CLIPS.get(limits)):
        t.emit(code, [value.place], node.output[0], value.order)
        return
    place = value.place
    dtype = {"FLOAT32": np.float32, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64}[source.kind]
    for code, end in (("MAXIMUM", limits[0]), ("MINIMUM", limits[1])):
        if np.isfinite(end) and not (source.kind == "INT8" and end == {"MAXIMUM": -128, "MINIMUM": 127}[code]):
            bound = t.constant(np.full((1,) * len(source.shape), end, dtype=dtype), scale=source.scale, zero_point=source.zero_point)
            place = t.operation(code, [place, bound], source.shape, source.kind, node.output[0], ("MaximumMinimum", {}), like=value.place)
    t.bind(node.output[0], Value(place, value.order))


def _leaky(t: Translation, node: Node) -> None:
    value = t.value(node.input[0])
    t.emit("LEAKY_RELU", [value.place], node.output[0], value.order, ("LeakyRelu", {"alpha": attributes(node).get("alpha", 0.01)}))


def _prelu(t: Translation, node: Node) -> None:
    value = t.value(node.input[0])
    t.emit("PRELU", [value.place, operand(t, node.input[1], value.order)], node.output[0], value.order)


def _gelu(t: Translation, node: Node) -> None:
    value = t.value(node.input[0])
    options: Options = ("Gelu", {"approximate": attributes(node).get("approximate", "none") == "tanh"})
    t.emit("GELU", [value.place], node.output[0], value.order, options)


def _hard_sigmoid(t: Translation, node: Node) -> None:
    value, facts = t.value(node.input[0]), attributes(node)
    rank = len(value.order)
    steps = [("MUL", "Mul", facts.get("alpha", 0.2)), ("ADD", "Add", facts.get("beta", 0.5))]
    place = value.place
    for code, options, number in steps:
        place = _with_number(t, code, options, place, number, rank)
    t.emit("RELU_0_TO_1", [place], node.output[0], value.order)


def _with_number(t: Translation, code: str, options: str, place: int, number: float, rank: int) -> int:
    source = t.tensor(place)
    bound = t.constant(np.full((1,) * rank, number, dtype=np.float32))
    return t.operation(code, [place, bound], source.shape, source.kind, source.name, (options, {"fusedActivationFunction": "NONE"}))


def _softplus(t: Translation, node: Node) -> None:
    """Write log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|)), which does not overflow."""
    value = t.value(node.input[0])
    place, source = value.place, t.tensor(value.place)
    for code in ("ABS", "NEG", "EXP"):
        place = t.operation(code, [place], source.shape, source.kind, node.output[0])
    place = t.operation("LOG", [_with_number(t, "ADD", "Add", place, 1.0, len(value.order))], source.shape, source.kind, node.output[0])
    above = t.operation("RELU", [value.place], source.shape, source.kind, node.output[0])
    t.emit("ADD", [above, place], node.output[0], value.order, ("Add", {"fusedActivationFunction": "NONE"}))


def _reciprocal(t: Translation, node: Node) -> None:
    value = t.value(node.input[0])
    one = t.constant(np.ones((1,) * len(value.order), dtype=np.float32))
    t.emit("DIV", [one, value.place], node.output[0], value.order, ("Div", {"fusedActivationFunction": "NONE"}))


def _is_nan(t: Translation, node: Node) -> None:
    """Compare a value with itself: NaN alone differs."""
    value = t.value(node.input[0])
    t.emit("NOT_EQUAL", [value.place, value.place], node.output[0], value.order, ("NotEqual", {}))


def _batch_norm(t: Translation, node: Node) -> None:
    """Write a norm of constants as a product and a sum."""
    scale, bias, mean, variance = (t.array(name) for name in node.input[1:5])
    if scale is None or bias is None or mean is None or variance is None:
        raise refuse(node, "a batch norm's constants depend on the data")
    gain = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + attributes(node).get("epsilon", 1e-5))
    _scaled(t, node, t.value(node.input[0]), gain, bias - mean * gain)


def _scaled(t: Translation, node: Node, value: Value, gain: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
    """Give the node's output: a value times a gain per channel, plus a bias per channel."""
    along = (-1, *[1] * (len(value.order) - 2))
    shapes = [t.constant(array.astype(np.float32).reshape(1, *along).transpose(value.order)) for array in (gain, bias)]
    source = t.tensor(value.place)
    none = {"fusedActivationFunction": "NONE"}
    place = t.operation("MUL", [value.place, shapes[0]], source.shape, source.kind, node.output[0], ("Mul", none))
    word, name = t.activation(node.output[0])
    t.emit("ADD", [place, shapes[1]], name, value.order, ("Add", {"fusedActivationFunction": word}))


def normalized(t: Translation, value: Value, axes: Sequence[int], epsilon: float, name: str) -> Value:
    """Return a value less its mean over some of ONNX's axes, over the root of its variance plus epsilon."""
    source = t.tensor(value.place)
    places = t.integers(sorted(value.order.index(axis) for axis in axes))
    reduced = [1 if value.order[i] in axes else size for i, size in enumerate(source.shape)]
    none = {"fusedActivationFunction": "NONE"}

    def mean(place: int) -> int:
        return t.operation("MEAN", [place, places], reduced, source.kind, name, ("Reducer", {"keepDims": True}))

    centred = t.operation("SUB", [value.place, mean(value.place)], source.shape, source.kind, name, ("Sub", none))
    square = t.operation("MUL", [centred, centred], source.shape, source.kind, name, ("Mul", none))
    shifted = _with_number(t, "ADD", "Add", mean(square), epsilon, len(value.order))
    root = t.operation("RSQRT", [shifted], reduced, source.kind, name)
    return Value(t.operation("MUL", [centred, root], source.shape, source.kind, name, ("Mul", none)), value.order)


def _layer_norm(t: Translation, node: Node) -> None:
    facts, rank = attributes(node), len(t.shape(node.input[0]))
    axes = range(facts.get("axis", -1) % rank, rank)
    value = normalized(t, t.value(node.input[0]), axes, facts.get("epsilon", 1e-5), node.output[0])
    name, none = node.output[0], {"fusedActivationFunction": "NONE"}
    place = value.place
    for code, options, source in zip(("MUL", "ADD"), ("Mul", "Add"), node.input[1:], strict=False):
        if source:
            shape = t.tensor(place).shape
            place = t.operation(code, [place, operand(t, source, value.order)], shape, "FLOAT32", name, (options, none))
    t.bind(name, Value(place, value.order))


def _instance_norm(t: Translation, node: Node) -> None:
    gain, bias = (t.array(name) for name in node.input[1:3])
    if gain is None or bias is None:
        raise refuse(node, "a norm's constants depend on the data")
    axes = range(2, len(t.shape(node.input[0])))
    value = normalized(t, t.value(node.input[0]), axes, attributes(node).get("epsilon", 1e-5), node.output[0])
    _scaled(t, node, value, gain.astype(np.float64), bias.astype(np.float64))


OPERATORS: dict[str, Operator] = {
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(BINARY, _binary),
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "InstanceNormalization": _instance_norm,
    "IsNaN": _is_nan,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky,
    "PRelu": _prelu,
    "Reciprocal": _reciprocal,
    "Relu": _clip,
    "Softplus": _softplus,
}
