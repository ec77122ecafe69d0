"""A TFLite model as plain data, written to and read from a flatbuffer by the schema that ai-edge-litert generates. No library is needed to
build one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant_core.export.litert import library
from quant_core.util.errors import BitfrontError, InputError

SIGNATURE, IDENTIFIER = "serving_default", b"TFL3"
ALIGNMENT, MOST = 16, 2**31 - 2**20
"""Bytes: kernels read constants at multiples of 16, and a flatbuffer ends at 2 GiB."""
_VERSIONS = {"BROADCAST_TO": 2}
"""Operators whose first version LiteRT no longer has."""
_NAMED = {"padding": "Padding", "fusedActivationFunction": "ActivationFunctionType", "mode": "MirrorPadMode"}
_TYPES = ("inDataType", "outDataType", "outputType")


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of a model.

    Attributes:
        name, shape: as in the file.
        kind: a name of the schema's TensorType, as INT8.
        data: the bytes of a constant; None of other tensors.
        scale: float32 [1], or [size of `axis`]; None where values are not codes.
        zero_point: of all scales.
        axis: along which the scales run.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    data: NDArray[np.uint8] | None = None
    scale: NDArray[np.float32] | None = None
    zero_point: int = 0
    axis: int = 0


@dataclass(frozen=True)
class Operation:
    """An operation of a model.

    Attributes:
        code: a name of the schema's BuiltinOperator.
        inputs, outputs: places of tensors; -1 of an input that is left out.
        options: (name of the options without `Options`, their values); enumerations by name.
    """

    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: tuple[str, Mapping[str, Any]] | None = None


@dataclass(eq=False)
class Model:
    """A model of one graph.

    Attributes:
        tensors, operations: in the order of execution.
        inputs, outputs: name -> place of the tensor.
    """

    tensors: list[Tensor] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)


def serialized(model: Model) -> bytes:
    """Return the bytes of a file.

    Raises:
        InputError: ai-edge-litert is not installed, or the constants are more than a file holds.
    """
    schema = library("schema_py_generated")
    if (size := sum(tensor.data.nbytes for tensor in model.tensors if tensor.data is not None)) > MOST:
        raise InputError(f"a file of LiteRT holds 2 GiB, the weights take {size:,} bytes; quantize to fewer bits, or use onnx.")
    codes = sorted({operation.code for operation in model.operations})
    graph = schema.SubGraphT(
        inputs=list(model.inputs.values()), outputs=list(model.outputs.values()), name="main", tensors=[], operators=[]
    )
    buffers = [schema.BufferT()]
    for tensor in model.tensors:
        graph.tensors.append(_tensor(schema, tensor, 0 if tensor.data is None else len(buffers)))
        if tensor.data is not None:
            buffers.append(_buffer(schema, tensor.data))
    graph.operators = [_operator(schema, operation, codes.index(operation.code)) for operation in model.operations]
    packed = schema.ModelT(version=3, description="bitfront", subgraphs=[graph], buffers=buffers)
    packed.operatorCodes = [_code(schema, code) for code in codes]
    packed.signatureDefs = [_signature(schema, model)]
    builder = import_module("flatbuffers").Builder(1024)
    builder.Finish(packed.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _tensor(schema: Any, tensor: Tensor, buffer: int) -> Any:
    made = schema.TensorT(name=tensor.name, shape=list(tensor.shape), buffer=buffer, hasRank=True)
    made.type = getattr(schema.TensorType, tensor.kind)
    if tensor.scale is not None:
        points = [tensor.zero_point] * len(tensor.scale)
        made.quantization = schema.QuantizationParametersT(scale=tensor.scale.tolist(), zeroPoint=points, quantizedDimension=tensor.axis)
    return made


def _code(schema: Any, code: str) -> Any:
    number = getattr(schema.BuiltinOperator, code)
    return schema.OperatorCodeT(deprecatedBuiltinCode=min(number, 127), builtinCode=number, version=_VERSIONS.get(code, 1))


def _operator(schema: Any, operation: Operation, place: int) -> Any:
    made = schema.OperatorT(opcodeIndex=place, inputs=list(operation.inputs), outputs=list(operation.outputs))
    if operation.options is not None:
        name, values = operation.options
        made.builtinOptionsType = getattr(schema.BuiltinOptions, f"{name}Options")
        made.builtinOptions = getattr(schema, f"{name}OptionsT")(**{key: _value(schema, key, value) for key, value in values.items()})
    return made


def _value(schema: Any, key: str, value: Any) -> Any:
    if key in _NAMED:
        return getattr(getattr(schema, _NAMED[key]), value)
    return getattr(schema.TensorType, value) if key in _TYPES else value


def _signature(schema: Any, model: Model) -> Any:
    ends = [[schema.TensorMapT(name=name, tensorIndex=place) for name, place in side.items()] for side in (model.inputs, model.outputs)]
    return schema.SignatureDefT(inputs=ends[0], outputs=ends[1], signatureKey=SIGNATURE)


def _buffer(schema: Any, data: NDArray[np.uint8]) -> Any:
    """Return a buffer of the schema whose bytes lie at a multiple of `ALIGNMENT`, as the schema asks; its generated writer forgets it."""

    class Aligned(schema.BufferT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> Any:  # noqa: N802
            builder.StartVector(1, len(data), ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data.tobytes()
            vector = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, vector)
            return schema.BufferEnd(builder)

    return Aligned()


def read(path: Path) -> Model:
    """Return the model of a file, with the bytes of its constants.

    Raises:
        BitfrontError: it is no file of LiteRT.
    """
    schema = library("schema_py_generated")
    data = path.read_bytes()
    if data[4:8] != IDENTIFIER:
        raise BitfrontError(f"{path} is no file of LiteRT.")
    packed = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    graph = packed.subgraphs[0]
    kinds = _names(schema.TensorType)
    codes = [_names(schema.BuiltinOperator)[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in packed.operatorCodes]
    model = Model([_read_tensor(tensor, kinds[tensor.type], packed.buffers[tensor.buffer].data) for tensor in graph.tensors])
    model.operations = [
        Operation(codes[operator.opcodeIndex], _places(operator.inputs), _places(operator.outputs)) for operator in graph.operators
    ]
    model.inputs = {model.tensors[place].name: place for place in _places(graph.inputs)}
    model.outputs = {model.tensors[place].name: place for place in _places(graph.outputs)}
    return model


def _read_tensor(tensor: Any, kind: str, data: Any) -> Tensor:
    name, grid = tensor.name.decode() if isinstance(tensor.name, bytes) else tensor.name, tensor.quantization
    scale = None if grid is None or grid.scale is None else np.asarray(grid.scale, dtype=np.float32)
    point = 0 if grid is None or grid.zeroPoint is None or not len(grid.zeroPoint) else int(grid.zeroPoint[0])
    constant = None if data is None or not len(data) else np.asarray(data, dtype=np.uint8)
    return Tensor(name, _places(tensor.shape), kind, constant, scale, point, 0 if grid is None else grid.quantizedDimension)


def _places(values: Sequence[int] | None) -> tuple[int, ...]:
    return () if values is None else tuple(int(value) for value in values)


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}
