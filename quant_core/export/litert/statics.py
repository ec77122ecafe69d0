"""A graph on one example: the shape and type of every value, and what does not depend on the inputs' values. Shapes of a file are fixed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from quant_core.export.passes import bodies
from quant_core.util.errors import InputError
from quant_core.util.text import cut

KINDS = {
    "float32": "FLOAT32",
    "float16": "FLOAT16",
    "float64": "FLOAT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "bool": "BOOL",
}
"""numpy's types by the schema's."""
_SHAPES = ("Shape", "Size")


@dataclass(frozen=True, eq=False)
class Statics:
    """What is known of the values of a graph before it runs.

    Attributes:
        shapes, kinds: of every value, by name; kinds are those of `KINDS`.
        constants: the values that no input's values change.
    """

    shapes: Mapping[str, tuple[int, ...]]
    kinds: Mapping[str, str]
    constants: Mapping[str, NDArray[Any]]


def statics(model: onnx.ModelProto, arrays: Mapping[str, NDArray[Any]], stand_ins: Collection[str] = ()) -> Statics:
    """Return the shapes, types and constants that one run of a graph on one example shows.

    Args:
        model: a graph that onnxruntime takes.
        arrays: the example, by name.
        stand_ins: initializers whose values are not theirs.

    Raises:
        InputError: the graph does not run on one example.
    """
    graph = model.graph
    initializers = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    values = {name: arrays[name] for name in (value.name for value in graph.input) if name in arrays}
    values |= _run(model, values)
    constants = {name: array for name, array in initializers.items() if name not in stand_ins}
    for node in graph.node:
        names = [name for name in node.input if name]
        fixed = node.op_type in _SHAPES or all(name in constants for name in names)
        if fixed and not list(bodies(node)) and not node.op_type.startswith("Random"):
            constants |= {name: values[name] for name in node.output if name}
    everything = initializers | values
    return Statics(
        {name: tuple(array.shape) for name, array in everything.items()},
        {name: KINDS.get(str(array.dtype), str(array.dtype)) for name, array in everything.items()},
        constants,
    )


def _run(model: onnx.ModelProto, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return every value that a node makes."""
    names = [name for node in model.graph.node for name in node.output if name]
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 4
    try:
        session = onnxruntime.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return {name: np.asarray(array) for name, array in zip(names, session.run(names, dict(inputs)), strict=True)}
    except Exception as error:  # its errors share no base class
        reason = cut((str(error).splitlines() or [type(error).__name__])[0], 200).rstrip(".")
        raise InputError(f"the network does not run on one example, as a file of LiteRT does: {reason}.") from error
