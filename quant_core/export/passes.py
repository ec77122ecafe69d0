"""Passes over an ONNX graph: explicit pads, unread nodes dropped, short names. Bodies of loops and branches read values of the graph."""

from collections.abc import Iterator, Mapping

import onnx
from onnx import AttributeProto, TensorProto, helper


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node holds (Loop, If, Scan), and those within them."""
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
        for graph in graphs:
            yield graph
            for inner in graph.node:
                yield from bodies(inner)


def reads(node: onnx.NodeProto) -> set[str]:
    """Return the names of all values that a node and its bodies read."""
    return {*node.input, *body_reads(node)}


def body_reads(node: onnx.NodeProto) -> set[str]:
    """Return the names that the bodies of a node read, those of their own values too."""
    names = {name for body in bodies(node) for inner in body.node for name in inner.input}
    return names | {value.name for body in bodies(node) for value in body.output}


def rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Replace names of values that a node and its bodies read."""
    for reader in (node, *(inner for body in bodies(node) for inner in body.node)):
        for i, name in enumerate(reader.input):
            reader.input[i] = names.get(name, name)
    for body in bodies(node):
        for value in body.output:
            value.name = names.get(value.name, value.name)


def explicit_pads(graph: onnx.GraphProto) -> None:
    """Write the pads of convolutions that say SAME: onnxruntime refuses these together with dilation. Torch has them for stride 1 only.

    Of d (k - 1) pads per axis SAME_UPPER puts the odd one at the end, SAME_LOWER at the start.
    """
    shapes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    for node in graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        mode = attributes["auto_pad"].s.decode() if "auto_pad" in attributes else ""
        if node.op_type != "Conv" or not mode.startswith("SAME"):
            continue
        kernel = list(attributes["kernel_shape"].ints) if "kernel_shape" in attributes else list(shapes[node.input[1]][2:])
        dilation = list(attributes["dilations"].ints) if "dilations" in attributes else [1] * len(kernel)
        totals = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
        kept = [attribute for attribute in node.attribute if attribute.name not in ("auto_pad", "pads")]
        del node.attribute[:]
        pads = [*small, *large] if mode == "SAME_UPPER" else [*large, *small]
        node.attribute.extend([*kept, helper.make_attribute("pads", pads)])


def holds_bfloat16(graph: onnx.GraphProto) -> bool:
    """Tell whether a graph computes in bfloat16."""
    kind = TensorProto.BFLOAT16
    tensors = [*graph.initializer, *(attribute.t for node in graph.node for attribute in node.attribute if attribute.HasField("t"))]
    casts = [attribute.i for node in graph.node if node.op_type == "Cast" for attribute in node.attribute if attribute.name == "to"]
    ends = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]
    return kind in {*casts, *ends, *(tensor.data_type for tensor in tensors)}


def shorten(graph: onnx.GraphProto) -> None:
    """Number the inner values: their names, after the path of each module, take more bytes than small layers."""
    fixed = {value.name for value in (*graph.initializer, *graph.input, *graph.output)} | {""}
    for node in graph.node:
        fixed |= body_reads(node)
    short: dict[str, str] = {}
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name not in fixed:
                    names[i] = short.setdefault(name, f"v{len(short)}")


def drop_unread(graph: onnx.GraphProto) -> None:
    """Drop nodes whose outputs are unused: copies of a weight that two layers share."""
    read = {value.name for value in graph.output}
    used = []
    for node in reversed(graph.node):  # users before producers
        if read & set(node.output):
            used.append(node)
            read |= reads(node)
    del graph.node[:]
    graph.node.extend(reversed(used))
