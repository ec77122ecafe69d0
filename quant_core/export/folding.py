"""Constants of a traced graph: shape arithmetic is computed once, zero padding becomes an attribute of the convolution behind it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from quant_core.export.passes import bodies, drop_unread, reads, rename

LARGEST = 1024
"""Elements of a constant that is computed: shapes and pads, never weights."""
Constants = dict[str, NDArray[Any]]


def small_constants(graph: onnx.GraphProto) -> Constants:
    """Return the constants of at most `LARGEST` elements by name: initializers and Constant nodes."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    tensors |= {
        node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    return {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items() if np.prod(tensor.dims) <= LARGEST}


def fold_shapes(model: onnx.ModelProto) -> None:
    """Replace int64 and boolean values that depend on constants alone by their values; float arithmetic stays as it is."""
    graph, opsets = model.graph, list(model.opset_import)
    constants = small_constants(graph)
    kept, computed = [], set()
    for node in graph.node:
        values = _values(node, constants, opsets)
        if values is None:
            kept.append(node)
            continue
        constants |= values
        computed |= set(values)
    read = {name for node in kept for name in reads(node)}
    graph.initializer.extend(numpy_helper.from_array(constants[name], name) for name in sorted(computed & read))
    del graph.node[:]
    graph.node.extend(kept)
    drop_unread(graph)


def _values(node: onnx.NodeProto, constants: Mapping[str, NDArray[Any]], opsets: Sequence[onnx.OperatorSetIdProto]) -> Constants | None:
    """Return the outputs of a node of constants by name, or None where it is not one, or its outputs are floats or many."""
    names = [name for name in node.input if name]
    if node.domain or node.op_type == "Constant" or not names or any(name not in constants for name in names) or list(bodies(node)):
        return None
    ends = [[helper.make_tensor_value_info(name, 0, None) for name in side] for side in (names, node.output)]
    graph = helper.make_graph([node], "constant", *ends)
    evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets))
    try:
        outputs = [np.asarray(values) for values in evaluator.run(None, {name: constants[name] for name in names})]
    except Exception:  # an operator that the evaluator lacks stays in the graph; its errors share no base class
        return None
    if any(values.dtype not in (np.int64, np.bool_) or values.size > LARGEST for values in outputs):
        return None
    return dict(zip(node.output, outputs, strict=True))


def fold_pads(graph: onnx.GraphProto, through: Collection[str]) -> None:
    """Add constant zero padding to the pads of the convolutions that read it, where nothing else does.

    Args:
        graph: traced.
        through: outputs of nodes between padding and convolution that give zero for zero: quantizers whose grid has zero.
    """
    constants, users = small_constants(graph), readers(graph)
    for pad in [node for node in graph.node if node.op_type == "Pad"]:
        amounts, convolutions = _zero_pads(pad, constants), _reading_convolutions(pad.output[0], users, through)
        if amounts is None or any(_pads(node, len(amounts) // 2 - 2) is None for node in convolutions):
            continue
        axes = len(amounts) // 2
        for node in convolutions:
            totals = [have + more for have, more in zip(_pads(node, axes - 2) or (), [*amounts[2:axes], *amounts[axes + 2 :]], strict=True)]
            others = [attribute for attribute in node.attribute if attribute.name != "pads"]
            del node.attribute[:]
            node.attribute.extend([*others, helper.make_attribute("pads", totals)])
        for user in users.get(pad.output[0], []) if convolutions else []:
            rename(user, {pad.output[0]: pad.input[0]})
    drop_unread(graph)


def readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes that read a value, by its name; an output of the graph is read by an empty node too."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in sorted(reads(node)):
            users.setdefault(name, []).append(node)
    for value in graph.output:
        users.setdefault(value.name, []).append(onnx.NodeProto())
    return users


def _zero_pads(pad: onnx.NodeProto, constants: Mapping[str, NDArray[Any]]) -> list[int] | None:
    """Return the amounts of padding by zeros, [start of every axis, end of every axis], or None for any other padding."""
    mode = next((attribute.s for attribute in pad.attribute if attribute.name == "mode"), b"constant")
    value = constants.get(pad.input[2], np.array(np.nan)) if len(pad.input) > 2 and pad.input[2] else np.array(0.0)
    amounts = [int(amount) for amount in constants.get(pad.input[1], np.array([-1]))]
    axes = len(amounts) // 2
    if mode != b"constant" or len(pad.input) > 3 or value.size != 1 or value.item() != 0.0 or min(amounts) < 0 or axes < 3:
        return None
    return None if any((*amounts[:2], *amounts[axes : axes + 2])) else amounts


def _reading_convolutions(name: str, users: Mapping[str, list[onnx.NodeProto]], through: Collection[str]) -> list[onnx.NodeProto]:
    """Return the convolutions of a value, or none where something else reads it."""
    convolutions = []
    for user in users.get(name, []):
        if user.op_type == "Conv" and list(user.input).count(name) == 1 and user.input[0] == name:
            convolutions.append(user)
            continue
        behind = _reading_convolutions(user.output[0], users, through) if user.output and user.output[0] in through else []
        if not behind:
            return []
        convolutions += behind
    return convolutions


def _pads(node: onnx.NodeProto, axes: int) -> list[int] | None:
    """Return the pads of a convolution, or None where they are not explicit."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if attributes.get("auto_pad", helper.make_attribute("auto_pad", "NOTSET")).s not in (b"NOTSET", b""):
        return None
    pads = list(attributes["pads"].ints) if "pads" in attributes else [0] * (2 * axes)
    return pads if len(pads) == 2 * axes else None
