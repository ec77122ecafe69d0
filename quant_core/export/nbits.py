"""Linear layers of packed weights and float inputs as onnxruntime's MatMulNBits: 2, 4 and 8 bits in blocks."""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from quant_core.export.constants import GraphParts
from quant_core.export.folding import readers
from quant_core.export.passes import drop_unread
from quant_core.export.stored import StoredLayer
from quant_core.export.tagging import WEIGHT
from quant_core.spec.layer import Layer
from quant_core.spec.policy import LayerPolicy
from quant_core.spec.quant_spec import QuantSpec

DOMAIN = "com.microsoft"
LEVEL = 4
"""accuracy_level: inputs are rounded to 8 bits per block. The other levels compute 8 and 2 bits by a loop that takes 20 to 50 x float."""
_BLOCKS = {2: (128, 64, 32), 4: (128, 64, 32, 16), 8: (128, 64, 32, 16)}
"""Blocks for which the kernel of level 4 is a fast one (onnxruntime 1.32): 2 bits in blocks of 16 or 256 are not."""


def refusal(layer: Layer, policy: LayerPolicy) -> str:
    """Return why MatMulNBits cannot hold a layer, or ""."""
    spec = policy.weight
    if layer.kind != "linear":
        return f"MatMulNBits is for linear layers, this is a {layer.kind}"
    if not policy.activation.is_float:
        return f"MatMulNBits takes float inputs, these are {policy.activation}"
    if spec.format != "int" or spec.granularity not in ("tensor", "channel", "group") or spec.bits > 8:
        return f"MatMulNBits takes integers of at most 8 bits per tensor, channel or group, these are {spec}"
    if layer.tied_to:
        return "MatMulNBits holds no weight that two layers share"
    if not _block(layer, spec):
        return f"MatMulNBits takes groups that are multiples of {min(_BLOCKS[_bits(spec.bits)])} at {spec.bits} bits, this is {spec.block}"
    return ""


def _bits(bits: int) -> int:
    return next(width for width in _BLOCKS if width >= bits)


def _block(layer: Layer, spec: QuantSpec) -> int:
    """Return the largest block of the kernel that divides the layer's groups, or 0; one group per channel takes any."""
    blocks = _BLOCKS[_bits(spec.bits)]
    if spec.granularity != "group":
        return next((block for block in blocks if block <= layer.in_channels), blocks[-1])
    return next((block for block in blocks if spec.block % block == 0), 0)


def replace_products(graph: onnx.GraphProto, stored: Mapping[str, StoredLayer], names: set[str]) -> GraphParts:
    """Put MatMulNBits in the place of the products of these layers' tagged weights; layers in other places keep theirs.

    Args:
        graph: with tags.
        stored: every layer by name.
        names: of layers that MatMulNBits holds; those that were replaced are removed.
    """
    users, parts = readers(graph), GraphParts()
    nodes, made = list(graph.node), dict[str, list[onnx.NodeProto]]()
    for tag in [node for node in nodes if node.op_type == WEIGHT]:
        layer = stored[helper.get_node_attr_value(tag, "layer").decode()]
        product = _product(tag, users)
        if layer.layer.name in names and product is not None and helper.get_node_attr_value(tag, "type") == TensorProto.FLOAT:
            names.remove(layer.layer.name)
            made[product.output[0]] = _nodes(layer, product, parts)
    del graph.node[:]
    graph.node.extend(other for node in nodes for other in made.get(node.output[0], [node]))
    drop_unread(graph)
    return parts


def _product(tag: onnx.NodeProto, users: Mapping[str, list[onnx.NodeProto]]) -> onnx.NodeProto | None:
    """Return the product x W that alone reads a tagged weight, transposed or not, or None."""
    name, between = tag.output[0], False
    if [node.op_type for node in users.get(name, [])] == ["Transpose"]:
        name, between = users[name][0].output[0], True
    if len(users.get(name, [])) != 1 or list(users[name][0].input[1:2]) != [name]:
        return None
    product = users[name][0]
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in product.attribute}
    plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA")
    gemm = product.op_type == "Gemm" and plain and not between and attributes.get("transB") == 1
    return product if product.op_type == "MatMul" or gemm else None


def _nodes(layer: StoredLayer, product: onnx.NodeProto, parts: GraphParts) -> list[onnx.NodeProto]:
    """Return MatMulNBits and the sum with a Gemm's bias; the packed weight is added to `parts`."""
    spec, encoded, prefix = layer.policy.weight, layer.encoded, f"{layer.layer.name}.weight"
    assert encoded is not None
    assert encoded.scale is not None
    bits, block = _bits(spec.bits), _block(layer.layer, spec)
    rows, columns = encoded.codes.shape
    blocks = -(-columns // block)
    spread = np.minimum(np.arange(blocks) * block // (spec.block if spec.granularity == "group" else columns), encoded.scale.shape[1] - 1)
    scale = np.broadcast_to(encoded.scale.numpy(), (rows, encoded.scale.shape[1]))[:, spread].astype(np.float32)
    centre = 2 ** (bits - 1)
    if encoded.zero_point is None:
        codes, zeros = encoded.codes.numpy().astype(np.int64) + encoded.low + centre, None
    else:
        codes = encoded.codes.numpy().astype(np.int64) + encoded.low
        zeros = np.broadcast_to(encoded.zero_point.numpy(), (rows, encoded.zero_point.shape[1]))[:, spread].astype(np.int64)
    padded = np.full((rows, blocks * block), centre)
    padded[:, :columns] = codes
    inputs = [product.input[0], _bytes(parts, f"{prefix}.codes", _packed(padded, bits).reshape(rows, blocks, block * bits // 8))]
    made = []
    halves = scale.astype(np.float16)
    if spec.scale in ("fp16", "e8m0") and bool((halves.astype(np.float32) == scale).all()):
        stored_scale = parts.floats(f"{prefix}.scale", halves.reshape(-1))
        made.append(helper.make_node("Cast", [stored_scale], [f"{prefix}.scale.float"], to=TensorProto.FLOAT))
        inputs.append(f"{prefix}.scale.float")
    else:
        inputs.append(parts.floats(f"{prefix}.scale", scale.reshape(-1)))
    if zeros is not None:
        inputs.append(_bytes(parts, f"{prefix}.zero_point", _packed(zeros, bits).reshape(-1)))
    if bits > spec.bits:
        parts.carried.append((f"{spec.bits}-bit int weights are carried in {bits} bits", layer.layer.name))
    parts.extra_bits += (bits - spec.bits) * encoded.codes.numel()
    biased = product.op_type == "Gemm" and len(product.input) > 2
    output = product.output[0]
    attributes = {"K": columns, "N": rows, "bits": bits, "block_size": block, "accuracy_level": LEVEL}
    result = f"{output}.product" if biased else output
    made.append(helper.make_node("MatMulNBits", inputs, [result], name=layer.layer.name, domain=DOMAIN, **attributes))
    return [*made, helper.make_node("Add", [result, product.input[2]], [output])] if biased else made


def _packed(values: NDArray[np.int64], bits: int) -> NDArray[np.uint8]:
    """Return rows of integers in bytes, the first one in the lowest bits; every row begins a byte."""
    per_byte = 8 // bits
    padded = np.zeros((len(values), -(-values.shape[1] // per_byte) * per_byte), dtype=np.int64)
    padded[:, : values.shape[1]] = values
    lanes = padded.reshape(len(values), -1, per_byte) << np.arange(0, 8, bits)
    packed: NDArray[np.uint8] = lanes.sum(axis=2).astype(np.uint8)
    return packed


def _bytes(parts: GraphParts, name: str, values: NDArray[np.uint8]) -> str:
    parts.constants.append(helper.make_tensor(name, TensorProto.UINT8, values.shape, values.tobytes(), raw=True))
    return name
