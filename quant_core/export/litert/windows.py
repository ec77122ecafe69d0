"""Windows over images: how LiteRT pads them, and its pools."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant_core.export.litert.flatbuffer import Tensor
from quant_core.export.litert.moves import reduced
from quant_core.export.litert.translation import Node, Operator, Order, Translation, Value, attributes, refuse

FIRST, LAST = (0, 2, 3, 1), (0, 2, 1)
"""The axes of ONNX's images and lines in LiteRT's order."""


@dataclass(frozen=True)
class Window:
    """A window that runs over rows and columns.

    Attributes:
        kernel, strides, dilations: per axis, rows first; lines are images of one row.
        begins: pads before the first row and column.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """Rows and columns from the first element of the window to its last one."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True))

    def pads(self, sizes: Sequence[int], outputs: Sequence[int]) -> list[tuple[int, int]]:
        """Return the pads per axis with which windows that fit give `outputs`."""
        rows = zip(sizes, outputs, self.reach, self.strides, self.begins, strict=True)
        return [(begin, max((out - 1) * stride + reach - size - begin, 0)) for size, out, reach, stride, begin in rows]

    def padding(self, sizes: Sequence[int], outputs: Sequence[int]) -> str:
        """Return how LiteRT pads by itself, VALID or SAME, or "" where the input must be padded before."""
        pads = self.pads(sizes, outputs)
        if not any(map(any, pads)):
            return "VALID"
        rows = zip(sizes, outputs, self.strides, pads, strict=True)
        same = all(out == -(-size // stride) and begin == (begin + end) // 2 for size, out, stride, (begin, end) in rows)
        return "SAME" if same else ""


def window(node: Node, kernel: Sequence[int]) -> Window:
    """Return the window of a node; pads at the end follow from the shape of its output.

    Raises:
        InputError: it runs over three axes.
    """
    facts, axes = attributes(node), len(kernel)
    if axes not in (1, 2):
        raise refuse(node, f"its windows run over one or two axes, not {axes}")
    if str(facts.get("auto_pad", "NOTSET")) != "NOTSET":
        raise refuse(node, "the graph leaves pads open")
    fields = (kernel, facts.get("strides", [1] * axes), facts.get("dilations", [1] * axes), facts.get("pads", [0] * 2 * axes)[:axes])
    missing = ((1,), (1,), (1,), (0,)) if axes == 1 else ((),) * 4
    return Window(*((*more, *(int(number) for number in field)) for more, field in zip(missing, fields, strict=True)))


def order_of(t: Translation, name: str) -> Order:
    """Return the order of the axes of an image or a line in LiteRT."""
    return FIRST if len(t.shape(name)) == 4 else LAST


def as_image(t: Translation, place: int, name: str) -> int:
    """Return the place of a line as an image of one row; images stay as they are."""
    shape = t.tensor(place).shape
    return place if len(shape) == 4 else t.reshape(place, (shape[0], 1, *shape[1:]), name)


def padded(t: Translation, place: int, pads: Sequence[tuple[int, int]], name: str, filling: int | None = None) -> int:
    """Return the place of an image with pads: of zeros, or of the constant at `filling`."""
    if not any(map(any, pads)):
        return place
    source = t.tensor(place)
    amount = np.array([(0, 0), *pads, (0, 0)], dtype=np.int32)
    shape = [size + sum(pair) for size, pair in zip(source.shape, amount.tolist(), strict=True)]
    inputs = [place, t.constant(amount), *([] if filling is None else [filling])]
    code, options = ("PAD", "Pad") if filling is None else ("PADV2", "PadV2")
    return t.operation(code, inputs, shape, source.kind, name, (options, {}), like=place)


def give(t: Translation, name: str, place: int) -> None:
    """Give an ONNX value the image at a place."""
    order = order_of(t, name)
    t.bind(name, Value(t.reshape(place, [t.shape(name)[axis] for axis in order], name), order))


def _pool(t: Translation, node: Node) -> None:
    facts, name, largest = attributes(node), node.output[0], node.op_type == "MaxPool"
    frame = window(node, facts["kernel_shape"])
    if len(node.output) > 1 or set(frame.dilations) != {1}:
        raise refuse(node, "its pools have no dilation and give no places")
    place = as_image(t, t.place(node.input[0], order_of(t, node.input[0])), name)
    source, outputs = t.tensor(place), (1, *t.shape(name)[2:])[-2:]
    sizes = source.shape[1:3]
    padding = frame.padding(sizes, outputs)
    factors = None
    if not largest and padding != "VALID" and (padding == "" or facts.get("count_include_pad", 0)):
        padding, factors = "", _factors(frame, sizes, outputs, facts)
    if not padding:
        place = padded(t, place, frame.pads(sizes, outputs), name, _least(t, source) if largest else None)
    options = {"padding": padding or "VALID", "strideH": frame.strides[0], "strideW": frame.strides[1]}
    options |= {"filterHeight": frame.kernel[0], "filterWidth": frame.kernel[1], "fusedActivationFunction": "NONE"}
    shape = (source.shape[0], *outputs, source.shape[3])
    code = "MAX_POOL_2D" if largest else "AVERAGE_POOL_2D"
    place = t.operation(code, [place], shape, source.kind, name, ("Pool2D", options), like=place)
    if factors is not None:
        none = {"fusedActivationFunction": "NONE"}
        place = t.operation("MUL", [place, t.constant(factors)], shape, source.kind, name, ("Mul", none))
    give(t, name, place)


def _least(t: Translation, source: Tensor) -> int:
    """Return the place of the least value of a tensor's type."""
    least = np.array(-128, dtype=np.int8) if source.kind == "INT8" else np.array(np.finfo(np.float32).min)
    return t.constant(least, scale=source.scale, zero_point=source.zero_point)


def _factors(frame: Window, sizes: Sequence[int], outputs: Sequence[int], facts: Mapping[str, Any]) -> NDArray[np.float32] | None:
    """Return [1, rows, columns, 1]: elements of the window over those that a mean counts; None where all are counted everywhere."""
    ends, counted = facts.get("pads", [0] * 4)[len(facts["kernel_shape"]) :], bool(facts.get("count_include_pad", 0))
    axes = []
    for i, (size, out) in enumerate(zip(sizes, outputs, strict=True)):
        first = np.arange(out) * frame.strides[i] - frame.begins[i]
        end = ([0, *ends] if len(ends) == 1 else ends)[i]
        low, high = (-frame.begins[i], size + end) if counted else (0, size)
        axes.append(frame.kernel[i] / (np.minimum(first + frame.kernel[i], high) - np.maximum(first, low)))
    factors = np.outer(*axes).astype(np.float32)[None, :, :, None]
    return None if (factors == 1).all() else factors


def _whole(t: Translation, node: Node) -> None:
    code = "MEAN" if node.op_type == "GlobalAveragePool" else "REDUCE_MAX"
    reduced(t, node, code, range(2, len(t.shape(node.input[0]))), keep=True)


OPERATORS: dict[str, Operator] = {
    "AveragePool": _pool,
    "GlobalAveragePool": _whole,
    "GlobalMaxPool": _whole,
    "MaxPool": _pool,
}
