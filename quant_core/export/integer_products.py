"""Layers whose outputs stay in float, written so that runtimes compute them by integers."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from quant_core.export.fusion import BYTES
from quant_core.export.wiring import Wiring

FEWEST = 64
"""Input channels from which a 1 x 1 convolution with a float output is computed by integers: below, making floats of its sums, and images
of its rows, takes longer than the products save (onnxruntime 1.32, VNNI: with 16, 24, 40, 80 and 112 channels 3.7, 2.1, 1.4, 0.8 and 0.6 of
the float convolution's time)."""
CONVOLUTION = "convolution:"
"""Beginning of the names of products that stand for convolutions."""


def integer_products(wiring: Wiring) -> None:
    """Write the 1 x 1 convolutions of 8-bit codes whose outputs stay in float, from `FEWEST` channels on, and all Gemms, as MatMul.

    onnxruntime computes a convolution without a quantizer behind it in float, and a MatMul of dequantized codes by integers with a float
    result. The transposes around it cancel those that it puts around its integer convolutions.
    """
    for node in [node for node in wiring.nodes if node.op_type in ("Conv", "Gemm")]:
        users = wiring.users.get(node.output[0], [])
        if node.op_type == "Gemm" or [user.op_type for user in users] != ["QuantizeLinear"]:
            _rewrite(node, wiring)


def _rewrite(node: onnx.NodeProto, wiring: Wiring) -> None:
    inputs, weights = (_dequantizer(name, wiring) for name in node.input[:2])
    if inputs is None or weights is None or not _is_product(node) or (node.op_type == "Conv" and _channels(weights, wiring) < FEWEST):
        return
    name, weight, biased = node.output[0], f"{node.output[0]}.weight", len(node.input) > 2 and bool(node.input[2])
    image = node.op_type == "Conv"
    operator, back = ("Transpose", "Transpose") if image else ("Unsqueeze", "Squeeze")
    axes = [] if image else [wiring.constant(numpy_helper.from_array(np.array([1]), "axis1"))]
    there, again = ({"perm": [0, 2, 3, 1]}, {"perm": [0, 3, 1, 2]}) if image else ({}, {})
    made = [
        helper.make_node("Flatten", [weights.input[0]], [f"{weight}.rows"]),
        helper.make_node("Transpose", [f"{weight}.rows"], [f"{weight}.columns"], perm=[1, 0]),
        helper.make_node("DequantizeLinear", [f"{weight}.columns", *weights.input[1:]], [weight], axis=1),
        helper.make_node(operator, [inputs.input[0], *axes], [f"{name}.codes"], **there),
        helper.make_node("DequantizeLinear", [f"{name}.codes", *inputs.input[1:]], [f"{name}.input"]),
        helper.make_node(
            "MatMul", [f"{name}.input", weight], [f"{name}.product" if biased else f"{name}.last"], name=f"{CONVOLUTION}{name}" * image
        ),
    ]
    if biased:
        made.append(helper.make_node("Add", [f"{name}.product", node.input[2]], [f"{name}.last"]))
    made.append(helper.make_node(back, [f"{name}.last", *axes], [name], **again))
    wiring.replace(node, made)


def _is_product(node: onnx.NodeProto) -> bool:
    """Tell whether a node is x W^T + b over channels: a Gemm as torch writes Linear, or a 1 x 1 convolution of images."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Gemm":
        plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
        return plain and attributes.get("transB") == 1 and not attributes.get("transA")
    ones = all(value == 1 for key in ("kernel_shape", "strides") for value in attributes.get(key, ()))
    unpadded = not any(attributes.get("pads", ())) and "auto_pad" not in attributes
    return ones and unpadded and attributes.get("group", 1) == 1 and len(attributes.get("kernel_shape", ())) == 2


def _channels(weights: onnx.NodeProto, wiring: Wiring) -> int:
    """Return the input channels of a convolution of one group, from the codes of its weights behind a cast or product."""
    name = weights.input[0]
    while name not in wiring.tensors:
        name = wiring.producers[name].input[0]
    return int(wiring.tensors[name].dims[1])


def _dequantizer(name: str, wiring: Wiring) -> onnx.NodeProto | None:
    """Return the DequantizeLinear of 8-bit codes that makes a value, or None."""
    node = wiring.producers.get(name)
    if node is None or node.op_type != "DequantizeLinear" or any(attribute.name == "block_size" for attribute in node.attribute):
        return None
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    return node if axis == 0 and _kind(node, wiring) is not None else None


def _kind(node: onnx.NodeProto, wiring: Wiring) -> int | None:
    """Return the 8-bit type of the codes of a DequantizeLinear, or None."""
    if len(node.input) > 2 and node.input[2] in wiring.tensors:
        kind = wiring.tensors[node.input[2]].data_type
    else:
        maker = wiring.producers.get(node.input[0])
        kind = helper.get_node_attr_value(maker, "to") if maker is not None and maker.op_type == "Cast" else 0
        kind = wiring.tensors[node.input[0]].data_type if node.input[0] in wiring.tensors else kind
    return kind if kind in BYTES else None
