"""Layers and quantizers as operators of LiteRT.

Between two quantizers a layer is computed by int8: codes in, codes out, biases in steps of input scale x weight scale. Elsewhere its
weights stay codes, and LiteRT quantizes its float inputs as it runs, or makes floats of the codes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant_core.export.litert.elementwise import operand
from quant_core.export.litert.translation import Node, Operator, Options, Order, Translation, Value, attributes, refuse
from quant_core.export.litert.windows import FIRST, as_image, order_of, padded, window

LARGEST = 2**31 - 1
"""A bias in int32."""
COARSEST = 0.125
"""Of a step of the output: the error of a rounded bias."""
BY_INPUTS = ("CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
"""Operations that multiply codes by float inputs, which they quantize as they run."""


@dataclass(frozen=True, eq=False)
class Product:
    """A layer in the file.

    Attributes:
        code, options: of its operation, without the activation function.
        source, order: its input's name, and the order of its axes.
        weight, weight_order: the same of its weight; lines have one axis more in the file.
        bias: a constant per channel, or None.
        output, output_order: its output's name, and the order of its axes.
        shape: of the operation's output.
        before, after: what is done with the places of the input and of the output.
        arguments: (places of input, weight, bias) -> the operation's inputs.
    """

    code: str
    options: Options
    source: str
    order: Order
    weight: str
    weight_order: Order
    bias: NDArray[Any] | None
    output: str
    output_order: Order
    shape: tuple[int, ...]
    before: Callable[[int], int] = lambda place: place
    after: Callable[[int], int] = lambda place: place
    arguments: Callable[[int, int, int], list[int]] = lambda source, weight, bias: [source, weight, bias]


def write(t: Translation, product: Product) -> None:
    """Write a layer with the quantizer or the activation function behind it."""
    codes = t.codes(product.weight)
    if codes is not None and codes.order != product.weight_order:
        codes = None
    user = _quantizer(t, product.output)
    source = t.codes(product.source)
    if t.int8 and codes is not None and user is not None and source is not None:
        bias = _steps(t, product.bias, source, codes, _grid(t, user)[0])
        if bias is not None:
            _write_int8(t, product, user, (t.ordered(source, product.order), codes.place, bias))
            return
    place = t.place(product.source, product.order)
    weight = codes.place if codes is not None and t.rounding and product.code in BY_INPUTS else _floats(t, product)
    bias = -1 if product.bias is None else t.constant(product.bias.astype(np.float32).reshape(-1))
    word, name = t.activation(product.output)
    _write(t, product, (place, weight, bias), word, name, None)


def _write_int8(t: Translation, product: Product, user: Node, places: tuple[int, int, int]) -> None:
    grid = _grid(t, user)
    t.done.add(user.output[0])
    word, name = t.code_limits(user.output[0], *grid)
    _write(t, product, places, word, name, grid)


def _write(t: Translation, product: Product, places: tuple[int, int, int], word: str, name: str, grid: tuple[float, int] | None) -> None:
    source, weight, bias = places
    inputs = product.arguments(product.before(source), weight, bias)
    options = (product.options[0], {**product.options[1], "fusedActivationFunction": word})
    place = t.operation(product.code, inputs, product.shape, "FLOAT32" if grid is None else "INT8", name, options, grid=grid)
    shape = [t.shape(name)[axis] for axis in product.output_order]
    t.bind(name, Value(t.reshape(product.after(place), shape, name), product.output_order))


def _steps(t: Translation, bias: NDArray[Any] | None, source: Value, weight: Value, output: float) -> int | None:
    """Return the place of a bias in steps of input scale x weight scale, -1 where there is none.

    None where int32 does not hold it, or where rounding it moves outputs, whose scale is `output`, by more than `COARSEST` of a step.
    """
    step, scales = t.tensor(source.place).scale, t.tensor(weight.place).scale
    assert step is not None
    assert scales is not None
    if bias is None:
        return -1
    scale = (step * scales).astype(np.float32)
    values = bias.astype(np.float64).reshape(-1)
    codes = np.rint(values / scale)
    fits = np.abs(codes).max() <= LARGEST and np.abs(codes * scale - values).max() <= COARSEST * output
    return t.constant(codes.astype(np.int32), scale=scale) if fits else None


def _floats(t: Translation, product: Product) -> int:
    """Return the place of a weight in float32."""
    array = t.array(product.weight)
    if array is not None:
        moved = array.transpose(product.weight_order)
        return t.constant(moved.reshape(_stored(moved.shape, product)))
    place = t.place(product.weight, product.weight_order)
    return t.reshape(place, _stored(t.tensor(place).shape, product), product.weight)


def _stored(shape: Sequence[int], product: Product) -> tuple[int, ...]:
    """Return the shape of a weight in the file: that of lines has an axis of one row."""
    return tuple(shape) if product.code == "FULLY_CONNECTED" or len(shape) == 4 else (shape[0], 1, *shape[1:])


def _grid(t: Translation, node: Node) -> tuple[float, int]:
    scale, zero_point = (t.scalar(name) for name in node.input[1:3])
    assert scale is not None
    assert zero_point is not None
    return scale, int(zero_point)


def _quantizer(t: Translation, name: str) -> Node | None:
    """Return the quantizer that alone reads a value, or None."""
    user = t.only_user(name)
    return user if user is not None and user.op_type == "QuantizeLinear" else None


def _quantize(t: Translation, node: Node) -> None:
    value = t.value(node.input[0])
    if (kind := t.tensor(value.place).kind) != "FLOAT32":
        raise refuse(node, f"it quantizes float32, not {kind}")
    t.emit("QUANTIZE", [value.place], node.output[0], value.order, ("Quantize", {}), grid=_grid(t, node))


def _dequantize(t: Translation, node: Node) -> None:
    t.bind_codes(node.output[0], t.value(node.input[0]))


def _bias(t: Translation, node: Node, channels: int) -> NDArray[Any]:
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(channels, dtype=np.float32)
    bias = t.array(node.input[2])
    if bias is None:
        raise refuse(node, "a bias depends on the data")
    return bias


def _convolution(t: Translation, node: Node) -> None:
    name, (source, weight) = node.output[0], node.input[:2]
    shape, groups = t.shape(weight), int(attributes(node).get("group", 1))
    frame, lines = window(node, shape[2:]), len(shape) == 3
    by_channel = groups > 1 and shape[1] == 1
    order = order_of(t, name)
    sizes, outputs = ((1, *t.shape(value)[2:])[-2:] for value in (source, name))
    padding = frame.padding(sizes, outputs)
    options = {"padding": padding or "VALID", "strideH": frame.strides[0], "strideW": frame.strides[1]}
    options |= {"dilationHFactor": frame.dilations[0], "dilationWFactor": frame.dilations[1]}
    if by_channel:
        options["depthMultiplier"] = shape[0] // groups
    last = (1, 2, 0) if by_channel else (0, 2, 1)

    def before(place: int) -> int:
        place = as_image(t, place, source)
        return place if padding else padded(t, place, frame.pads(sizes, outputs), source)

    write(
        t,
        Product(
            "DEPTHWISE_CONV_2D" if by_channel else "CONV_2D",
            ("DepthwiseConv2D" if by_channel else "Conv2D", options),
            source,
            order,
            weight,
            last if lines else (1, 2, 3, 0) if by_channel else FIRST,
            _bias(t, node, shape[0]),
            name,
            order,
            (t.shape(name)[0], *outputs, shape[0]),
            before=before,
        ),
    )


def _transposed(t: Translation, node: Node) -> None:
    name, (source, weight) = node.output[0], node.input[:2]
    facts, shape, order = attributes(node), t.shape(weight), order_of(t, node.output[0])
    frame = window(node, shape[2:])
    if int(facts.get("group", 1)) > 1 or set(frame.dilations) != {1}:
        raise refuse(node, "its transposed convolutions have one group and no dilation")
    sizes, outputs = ((1, *t.shape(value)[2:])[-2:] for value in (source, name))
    more = (0, *facts.get("output_padding", [0] * (len(shape) - 2)))[-2:]
    rows = zip(sizes, frame.strides, frame.kernel, more, strict=True)
    whole = [(size - 1) * stride + reach + extra for size, stride, reach, extra in rows]
    full = (t.shape(name)[0], *whole, shape[1])
    options = {"padding": "VALID", "strideH": frame.strides[0], "strideW": frame.strides[1]}

    def after(place: int) -> int:
        if tuple(whole) == tuple(outputs):
            return place
        begin, size = t.integers([0, *frame.begins, 0]), (full[0], *outputs, full[3])
        return t.operation("SLICE", [place, begin, t.integers(size)], size, t.tensor(place).kind, name, like=place)

    write(
        t,
        Product(
            "TRANSPOSE_CONV",
            ("TransposeConv", options),
            source,
            order,
            weight,
            (1, 2, 3, 0) if len(shape) == 4 else (1, 2, 0),
            _bias(t, node, shape[1]),
            name,
            order,
            full,
            before=lambda place: as_image(t, place, source),
            after=after,
            arguments=lambda place, kernel, bias: [t.integers(full), kernel, place, bias],
        ),
    )


def _linear(t: Translation, source: str, weight: str, weight_order: Order, bias: NDArray[Any] | None, name: str) -> None:
    """Write x W + b; the features of x are its last axis, the others are in the order in which they are."""
    axes = tuple(range(len(t.shape(source))))
    order = (t.codes(source) or t.value(source)).order if t.array(source) is None else axes
    order = order if order[-1] == axes[-1] else axes
    shape = tuple(t.shape(name)[axis] for axis in order)
    options = {"keepNumDims": len(axes) != 2, "weightsFormat": 0, "asymmetricQuantizeInputs": False}
    write(t, Product("FULLY_CONNECTED", ("FullyConnected", options), source, order, weight, weight_order, bias, name, order, shape))


def _is_matrix(t: Translation, name: str) -> bool:
    return len(t.shape(name)) == 2 and (t.codes(name) is not None or t.array(name) is not None)


def _gemm(t: Translation, node: Node) -> None:
    facts, (source, weight) = attributes(node), node.input[:2]
    if facts.get("transA", 0) or facts.get("alpha", 1.0) != 1.0 or facts.get("beta", 1.0) != 1.0 or not _is_matrix(t, weight):
        raise refuse(node, "it multiplies by constant matrices, not scaled and not transposed")
    transposed = bool(facts.get("transB", 0))
    channels = t.shape(weight)[0 if transposed else 1]
    bias = _bias(t, node, channels)
    if bias.size != channels:
        raise refuse(node, "a bias has a value per channel")
    _linear(t, source, weight, (0, 1) if transposed else (1, 0), bias, node.output[0])


def _mat_mul(t: Translation, node: Node) -> None:
    (source, weight), name = node.input[:2], node.output[0]
    if _is_matrix(t, weight) and len(t.shape(source)) > 1:
        bias, name = _following_bias(t, name, t.shape(weight)[1])
        _linear(t, source, weight, (1, 0), bias, name)
        return
    rank = len(t.shape(name))
    if min(len(t.shape(source)), len(t.shape(weight))) < 2:
        raise refuse(node, "it multiplies matrices, not vectors")
    axes = tuple(range(rank))
    swapped = (*axes[:-2], axes[-1], axes[-2])
    turned = len(t.shape(weight)) == rank and t.array(weight) is None and t.value(weight).order == swapped
    second = t.value(weight).place if turned else operand(t, weight, axes)
    options = {"adjX": False, "adjY": turned, "asymmetricQuantizeInputs": False}
    t.emit("BATCH_MATMUL", [operand(t, source, axes), second], name, axes, ("BatchMatMul", options))


def _following_bias(t: Translation, name: str, channels: int) -> tuple[NDArray[Any] | None, str]:
    """Return the bias that alone is added to a product, and the name of the sum; else None and the name of the product."""
    user = t.only_user(name)
    if user is None or user.op_type != "Add":
        return None, name
    bias = t.array(next(other for other in user.input if other != name))
    if bias is None or bias.size != channels or bias.shape[-1:] != (channels,) or len(bias.shape) > len(t.shape(name)):
        return None, name
    t.done.add(user.output[0])
    return bias, str(user.output[0])


OPERATORS: dict[str, Operator] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "DequantizeLinear": _dequantize,
    "Gemm": _gemm,
    "MatMul": _mat_mul,
    "QuantizeLinear": _quantize,
}
