"""Weights of convolutions that are computed in float, written so that onnxruntime makes floats of their codes once, as it loads the graph.

onnxruntime folds no DequantizeLinear: it may belong to an integer kernel. Where it does not, the codes become floats in every call, which
takes longer than the convolution. Cast, Sub and Mul give the same values, and are folded.
"""

import onnx
from onnx import TensorProto, helper

from quant_core.export.fusion import BYTES
from quant_core.export.wiring import Wiring

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_BETWEEN = ("Reshape", "Transpose", "Cast")
"""Operations between a weight and the convolution that reads it."""


def fold_float_weights(wiring: Wiring) -> None:
    """Write the dequantizers of weights that convolutions alone read, none of which is computed by integers, as Cast, Sub and Mul."""
    for node in [node for node in wiring.nodes if node.op_type == "DequantizeLinear"]:
        source = _constant(node.input[0], wiring)
        readers = _readers(node.output[0], wiring)
        if source is None or not readers or _constant(node.input[1], wiring) is None:
            continue
        if all(reader.op_type in _CONVOLUTIONS and not _by_integers(reader, wiring) for reader in readers):
            made = _folded(node, source, wiring)
            if made:
                wiring.replace(node, made)


def _constant(name: str, wiring: Wiring) -> onnx.TensorProto | None:
    """Return the constant that a value is made of by casts and products with constants, or None."""
    while name not in wiring.tensors:
        node = wiring.producers.get(name)
        if node is None or node.op_type not in ("Cast", "Mul"):
            return None
        name = node.input[0]
    return wiring.tensors[name]


def _readers(name: str, wiring: Wiring) -> list[onnx.NodeProto]:
    """Return the nodes that read a value, also behind changes of its shape and type."""
    readers = []
    for node in wiring.users.get(name, []):
        readers += _readers(node.output[0], wiring) if node.op_type in _BETWEEN else [node]
    return readers


def _by_integers(node: onnx.NodeProto, wiring: Wiring) -> bool:
    """Tell whether onnxruntime computes a convolution by integers: 8-bit codes come in, and one quantizer reads its output."""
    behind = [user.op_type for user in wiring.users.get(node.output[0], [])]
    makers = [wiring.producers.get(name) for name in node.input[:2]]
    coded = all(maker is not None and maker.op_type == "DequantizeLinear" and _is_byte(maker, wiring) for maker in makers)
    return node.op_type == "Conv" and behind == ["QuantizeLinear"] and coded


def _is_byte(node: onnx.NodeProto, wiring: Wiring) -> bool:
    """Tell whether the codes of a DequantizeLinear have 8 bits."""
    maker = wiring.producers.get(node.input[0])
    if maker is not None:
        return maker.op_type != "Cast" or helper.get_node_attr_value(maker, "to") in BYTES
    return node.input[0] in wiring.tensors and wiring.tensors[node.input[0]].data_type in BYTES


def _folded(node: onnx.NodeProto, codes: onnx.TensorProto, wiring: Wiring) -> list[onnx.NodeProto]:
    """Return the nodes that give a dequantizer's output; none where its blocks do not divide its rows."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    name, sizes, axis, block = node.output[0], list(codes.dims), attributes.get("axis", 1), attributes.get("block_size", 0)
    if block and (len(sizes) != 2 or axis != 1 or sizes[1] % block):
        return []
    scalar = node.input[1] in wiring.tensors and not list(wiring.tensors[node.input[1]].dims)
    inner = [sizes[0], sizes[1] // block, block] if block else sizes
    scaled = [sizes[0], sizes[1] // block, 1] if block else [] if scalar else [-1 if place == axis else 1 for place in range(len(sizes))]
    made: list[onnx.NodeProto] = []

    def reshaped(value: str, shape: list[int], output: str) -> str:
        size = helper.make_tensor(f"{output}.shape", TensorProto.INT64, [len(shape)], shape)
        made.append(helper.make_node("Constant", [], [f"{output}.shape"], value=size))
        made.append(helper.make_node("Reshape", [value, f"{output}.shape"], [output]))
        return output

    def floats(value: str, output: str) -> str:
        made.append(helper.make_node("Cast", [value], [output], to=TensorProto.FLOAT))
        return output

    values = floats(node.input[0], f"{name}.floats")
    values = reshaped(values, inner, f"{name}.blocks") if block else values
    if len(node.input) > 2 and node.input[2]:
        zero = floats(node.input[2], f"{name}.zero")
        zero = reshaped(zero, scaled, f"{name}.zeros") if scaled else zero
        made.append(helper.make_node("Sub", [values, zero], [f"{name}.centred"]))
        values = f"{name}.centred"
    scale = reshaped(node.input[1], scaled, f"{name}.scales") if scaled else node.input[1]
    made.append(helper.make_node("Mul", [values, scale], [f"{name}.product" if block else name]))
    if block:
        reshaped(f"{name}.product", sizes, name)
    return made
