"""Reductions over axes, written so that OpenVINO's CPU plugin does not compute a quantizer as part of them.

OpenVINO 2026.4 merges a FakeQuantize with the reduction before it, and then gives other codes: behind a ReduceMax or ReduceMin where a
layer takes the codes, behind a ReduceMean where a product or sum of channels stands between. An axis that is kept and taken off behind the
reduction (or the other way round) is a Reshape between the two, which keeps them apart.
"""

import onnx
from onnx import helper

REDUCTIONS = ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum")


def apart_from_quantizers(graph: onnx.GraphProto) -> None:
    """Put a Squeeze or an Unsqueeze behind every reduction over named axes."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        keeps = next((attribute for attribute in node.attribute if attribute.name == "keepdims"), None)
        if node.op_type not in REDUCTIONS or len(node.input) < 2:
            continue
        kept = keeps is None or bool(keeps.i)
        if keeps is not None:
            node.attribute.remove(keeps)
        node.attribute.append(helper.make_attribute("keepdims", int(not kept)))
        output, node.output[0] = node.output[0], f"{node.output[0]}.reduced"
        nodes.append(helper.make_node("Unsqueeze" if kept else "Squeeze", [node.output[0], node.input[1]], [output]))
    del graph.node[:]
    graph.node.extend(nodes)
