"""An ONNX graph on one example translated to a model of LiteRT, operator by operator.

ONNX has the channels of images before their rows, LiteRT after their columns. So every value has an order of its axes in the file, and
is transposed where an operator needs another one than it has; a transposition of the network's own only gives the axes other names.
Dequantized values are codes until something reads them as floats.
"""

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from quant_core.export.folding import readers
from quant_core.export.litert.flatbuffer import Model, Operation, Tensor
from quant_core.export.litert.statics import KINDS, Statics
from quant_core.util.errors import InputError

Node: TypeAlias = onnx.NodeProto
Options = tuple[str, Mapping[str, Any]]
Order = tuple[int, ...]
Operator = Callable[["Translation", Node], None]
FUSED = {(0.0, np.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}
"""Limits of the activation functions that LiteRT's operators have built in."""
BYTE = (-128, 127)


@dataclass(frozen=True)
class Value:
    """A value in the file.

    Attributes:
        place: of its tensor.
        order: axis of the tensor -> axis of the ONNX value.
    """

    place: int
    order: Order


def attributes(node: Node) -> dict[str, Any]:
    """Return the attributes of a node by name; texts are decoded."""
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def ascending(axes: Sequence[int]) -> bool:
    """Tell whether axes are in order."""
    return all(first < second for first, second in itertools.pairwise(axes))


def refuse(node: Node, reason: str) -> InputError:
    """Return the error of a node that LiteRT does not have."""
    return InputError(f"LiteRT cannot represent this network: {reason} (ONNX's {node.op_type}). Use onnx or openvino.")


class Translation:
    """A model of LiteRT that is built from a graph.

    Args:
        graph: nodes in the order of execution.
        facts: of its values on one example.
        rounding: float inputs of packed weights are rounded to 8 bits as the file runs; else their codes become floats.
        integers: layers between two quantizers are computed by int8; else as all others.
    """

    def __init__(self, graph: onnx.GraphProto, facts: Statics, *, rounding: bool, integers: bool) -> None:
        self.model, self.facts, self.rounding, self.int8 = Model(), facts, rounding, integers
        self.users = readers(graph)
        self.done = set[str]()
        """First outputs of nodes that another one has taken in."""
        self._values = dict[str, Value]()
        self._coded = dict[str, Value]()
        self._moved = dict[tuple[int, Order], int]()
        self._constants = dict[object, int]()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a value in ONNX."""
        return self.facts.shapes[name]

    def array(self, name: str) -> NDArray[Any] | None:
        """Return the values of a constant, or None."""
        return self.facts.constants.get(name)

    def scalar(self, name: str) -> float | None:
        """Return the constant of one element of that name, or None."""
        array = self.array(name)
        return float(array.reshape(())) if array is not None and array.size == 1 else None

    def tensor(self, place: int) -> Tensor:
        """Return the tensor at a place."""
        return self.model.tensors[place]

    def add(self, tensor: Tensor) -> int:
        """Add a tensor; return its place."""
        self.model.tensors.append(tensor)
        return len(self.model.tensors) - 1

    def constant(self, array: NDArray[Any], name: str = "", *, scale: NDArray[np.float32] | None = None, zero_point: int = 0) -> int:
        """Add a constant, or find one of the same bytes and grid; return its place."""
        array = np.ascontiguousarray(array).reshape(array.shape)  # numpy gives single values an axis
        data = array.reshape(-1).view(np.uint8)
        key = (hashlib.sha256(data.data).digest(), array.dtype.str, array.shape, None if scale is None else scale.tobytes(), zero_point)
        if key not in self._constants:
            self._constants[key] = self.add(
                Tensor(name or f"constant{len(self._constants)}", array.shape, KINDS[str(array.dtype)], data, scale, zero_point)
            )
        return self._constants[key]

    def integers(self, values: Sequence[int]) -> int:
        """Add int32 constants: axes, shapes, pads."""
        return self.constant(np.array(values, dtype=np.int32))

    def bind(self, name: str, value: Value) -> None:
        """Name a value."""
        self._values[name] = value

    def bind_codes(self, name: str, value: Value) -> None:
        """Name a value that is there as codes."""
        self._coded[name] = value

    def codes(self, name: str) -> Value | None:
        """Return the codes of a dequantized value, or None."""
        return self._coded.get(name)

    def value(self, name: str) -> Value:
        """Return a value in the order in which it is; codes are dequantized, constants added."""
        if name not in self._values:
            array, codes = self.array(name), self._coded.get(name)
            if codes is not None:
                self._values[name] = self._dequantized(name, codes)
            elif array is not None:
                self._values[name] = Value(self.constant(array, name), tuple(range(array.ndim)))
            else:
                raise InputError(f"LiteRT cannot represent this network: nothing gives its value {name!r}.")
        return self._values[name]

    def _dequantized(self, name: str, codes: Value) -> Value:
        shape = tuple(self.shape(name)[axis] for axis in codes.order)
        place = self.operation("DEQUANTIZE", [codes.place], self.tensor(codes.place).shape, "FLOAT32", name)
        if self.tensor(place).shape != shape:  # the weight of a convolution of one axis is stored with two
            place = self.reshape(place, shape, name)
        return Value(place, codes.order)

    def place(self, name: str, order: Sequence[int] = ()) -> int:
        """Return the place of a value whose axes are in `order`, by default that of ONNX."""
        wanted, array = tuple(order) or tuple(range(len(self.shape(name)))), self.array(name)
        if array is not None and name not in self._values:
            return self.constant(array.transpose(wanted), name)
        return self.ordered(self.value(name), wanted)

    def ordered(self, value: Value, wanted: Order) -> int:
        """Return the place of a value in another order of its axes, which is made once."""
        if value.order == wanted:
            return value.place
        key = (value.place, tuple(value.order.index(axis) for axis in wanted))
        if key not in self._moved:
            self._moved[key] = self.transpose(value.place, key[1])
        return self._moved[key]

    def transpose(self, place: int, axes: Sequence[int]) -> int:
        """Return the place of a transposed tensor; only its shape changes where the moved axes have one element."""
        source = self.tensor(place)
        shape = tuple(source.shape[axis] for axis in axes)
        if ascending([axis for axis in axes if source.shape[axis] != 1]):
            return self.reshape(place, shape, source.name)
        return self.operation("TRANSPOSE", [place, self.integers(axes)], shape, source.kind, source.name, like=place)

    def reshape(self, place: int, shape: Sequence[int], name: str) -> int:
        """Return the place of a tensor of the same elements in another shape."""
        if self.tensor(place).shape == tuple(shape):
            return place
        options = ("Reshape", {"newShape": list(shape)})
        return self.operation("RESHAPE", [place, self.integers(shape)], shape, self.tensor(place).kind, name, options, like=place)

    def operation(
        self,
        code: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        kind: str,
        name: str,
        options: Options | None = None,
        *,
        like: int | None = None,
        grid: tuple[float, int] | None = None,
    ) -> int:
        """Add an operation of one output.

        Args:
            code: of the schema.
            inputs: places.
            shape, kind, name: of the output.
            options: of the operation.
            like: the place of a tensor whose grid the output has.
            grid: scale and zero point of the output.

        Returns:
            The place of the output.
        """
        scale, zero_point = (None, 0) if like is None else (self.tensor(like).scale, self.tensor(like).zero_point)
        if grid is not None:
            scale, zero_point = np.array([grid[0]], dtype=np.float32), grid[1]
        place = self.add(Tensor(name, tuple(int(size) for size in shape), kind, None, scale, zero_point))
        self.model.operations.append(Operation(code, tuple(inputs), (place,), options))
        return place

    def emit(
        self,
        code: str,
        inputs: Sequence[int],
        name: str,
        order: Sequence[int] = (),
        options: Options | None = None,
        *,
        like: int | None = None,
        grid: tuple[float, int] | None = None,
    ) -> None:
        """Add the operation that gives an ONNX value; `order` is that of its axes, the rest as in `operation`."""
        order = tuple(order or range(len(self.shape(name))))
        shape = [self.shape(name)[axis] for axis in order]
        self.bind(name, Value(self.operation(code, inputs, shape, self.facts.kinds[name], name, options, like=like, grid=grid), order))

    def only_user(self, name: str) -> Node | None:
        """Return the one node that reads a value, once, or None."""
        users = self.users.get(name, [])
        return users[0] if len(users) == 1 and users[0].op_type and list(users[0].input).count(name) == 1 else None

    def limits(self, node: Node) -> tuple[float, float] | None:
        """Return the ends of a Relu or Clip of constant ends, or None."""
        if node.op_type == "Relu":
            return 0.0, np.inf
        if node.op_type != "Clip":
            return None
        low, high = (self.scalar(name) if name else end for name, end in zip([*node.input[1:], "", ""], (-np.inf, np.inf), strict=False))
        return None if low is None or high is None else (low, high)

    def activation(self, name: str) -> tuple[str, str]:
        """Return the activation function that alone reads a value and can be built into its operation, and the value behind it."""
        user = self.only_user(name)
        limits = self.limits(user) if user is not None and user.input[0] == name else None
        if user is None or limits not in FUSED:
            return "NONE", name
        self.done.add(user.output[0])
        return FUSED[limits], str(user.output[0])

    def code_limits(self, name: str, scale: float, zero_point: int) -> tuple[str, str]:
        """As `activation`, for a value of codes: the Clip behind it is built in where an activation function has the same codes as ends."""
        user = self.only_user(name)
        limits = self.limits(user) if user is not None and user.input[0] == name else None
        for ends, word in FUSED.items():
            codes = [np.clip(np.rint(end / np.float32(scale)) + zero_point, *BYTE) for end in ends]
            if user is not None and limits == tuple(codes):
                self.done.add(user.output[0])
                return word, str(user.output[0])
        return "NONE", name


def translated(
    graph: onnx.GraphProto,
    facts: Statics,
    operators: Mapping[str, Operator],
    start: Callable[[Translation], None],
    *,
    rounding: bool,
    integers: bool,
) -> Model:
    """Return the model of a graph.

    Args:
        graph, facts, rounding, integers: as `Translation`.
        operators: by ONNX's name.
        start: names the values that are there before the first node runs.

    Raises:
        InputError: LiteRT has no operator for a node.
    """
    work = Translation(graph, facts, rounding=rounding, integers=integers)
    constants = {tensor.name for tensor in graph.initializer}
    for entry in graph.input:
        if entry.name not in constants:
            place = work.add(Tensor(entry.name, facts.shapes[entry.name], facts.kinds[entry.name]))
            work.model.inputs[entry.name] = place
            work.bind(entry.name, Value(place, tuple(range(len(facts.shapes[entry.name])))))
    start(work)
    for node in graph.node:
        if node.output[0] in work.done or all(name in facts.constants for name in node.output if name):
            continue
        if node.op_type not in operators:
            raise InputError(f"LiteRT cannot represent this network: it has no operator for ONNX's {node.op_type}. Use onnx or openvino.")
        operators[node.op_type](work, node)
    for entry in graph.output:
        work.model.outputs[entry.name] = work.place(entry.name)
    return work.model
