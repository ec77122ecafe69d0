"""Embeddings written so that the codes of the rows that are looked up become floats, and not those of the whole table in every call."""

import onnx
from onnx import TensorProto, helper

from quant_core.export.fusion import BYTES
from quant_core.export.wiring import Wiring

_LAST = "last.axis"


def look_up_codes(wiring: Wiring) -> None:
    """Put the look-up of 8-bit codes before their dequantizer, which is then Cast, Sub and Mul: the same values.

    Tables of other codes, which Gather does not take, and of blocks stay as they are. What else reads the table reads its dequantizer.
    """
    for table in [node for node in wiring.nodes if node.op_type == "DequantizeLinear" and _is_table(node, wiring)]:
        for reader in list(wiring.users.get(table.output[0], [])):
            axis = next((attribute.i for attribute in reader.attribute if attribute.name == "axis"), 0)
            if reader.op_type == "Gather" and axis == 0 and reader.input[0] == table.output[0]:
                wiring.replace(reader, _rows(table, reader, wiring))


def _is_table(node: onnx.NodeProto, wiring: Wiring) -> bool:
    """Tell whether a dequantizer's input is a matrix of 8-bit codes whose scales are those of rows, or one."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    parts = [wiring.tensors.get(name) for name in node.input if name]
    codes = parts[0]
    if codes is None or codes.data_type not in BYTES or len(codes.dims) != 2 or attributes.get("block_size", 0):
        return False
    by_row = attributes.get("axis", 1) == 0
    return all(part is not None and (_is_one(part) or (by_row and len(part.dims) == 1)) for part in parts[1:])


def _is_one(tensor: onnx.TensorProto) -> bool:
    return all(size == 1 for size in tensor.dims)


def _rows(table: onnx.NodeProto, reader: onnx.NodeProto, wiring: Wiring) -> list[onnx.NodeProto]:
    """Return the nodes that give the output of a look-up."""
    indices, name = reader.input[1], reader.output[0]
    made: list[onnx.NodeProto] = []

    def node(kind: str, inputs: list[str], output: str, **attributes: int) -> str:
        made.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def of_rows(constant: str, output: str) -> str:
        """Return a scale or a zero point for the rows that are looked up."""
        if _is_one(wiring.tensors[constant]):
            return constant
        last = wiring.constant(helper.make_tensor(_LAST, TensorProto.INT64, [1], [-1]))
        return node("Unsqueeze", [node("Gather", [constant, indices], f"{output}.rows", axis=0), last], output)

    codes = node("Gather", [table.input[0], indices], f"{name}.codes", axis=0)
    values = node("Cast", [codes], f"{name}.floats", to=TensorProto.FLOAT)
    if len(table.input) > 2 and table.input[2]:
        zero = node("Cast", [of_rows(table.input[2], f"{name}.zero")], f"{name}.zero.float", to=TensorProto.FLOAT)
        values = node("Sub", [values, zero], f"{name}.centred")
    node("Mul", [values, of_rows(table.input[1], f"{name}.scale")], name)
    return made
