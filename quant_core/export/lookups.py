"""Embeddings written so that the codes of the rows that are looked up become floats, and not those of the whole table in every call."""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper

from quant_core.export.fusion import BYTES
from quant_core.export.nbits import DOMAIN
from quant_core.export.wiring import Wiring

NOTE = "codes of fewer than 8 bits are looked up by onnxruntime's GatherBlockQuantized, so the file runs in onnxruntime alone"
_WIDTHS = dict.fromkeys(BYTES, 8) | {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.INT2: 2, TensorProto.UINT2: 2}
_ONE = "rows.one"
_LEAST_BLOCK = 16
"""GatherBlockQuantized takes blocks of a power of two, this at least."""


def look_up_codes(wiring: Wiring) -> list[tuple[str, str]]:
    """Put the look-up of codes before their dequantizer: the same values, (q - z) s in float32. Return (note, layer) of packed tables.

    Gather takes codes of 8 bits, GatherBlockQuantized those of 4, and those of 2 as bytes. Other tables stay as they are. What else reads
    a table reads its dequantizer; a table of 2 bits that is read so stays.
    """
    notes = []
    for node in [node for node in wiring.nodes if node.op_type == "DequantizeLinear"]:
        table, values = _table(node, wiring), node.output[0]
        readers = [reader for reader in wiring.users.get(values, []) if _looks_up(reader, values)]
        if table is None or not readers or (table.bits == 2 and not _as_bytes(table, values, len(readers), wiring)):
            continue
        for reader in readers:
            wiring.replace(reader, _Lookup(table, reader.input[1], reader.output[0], wiring).rows())
        if table.bits < 8:
            notes.append((NOTE, table.codes.removesuffix(".weight.codes")))
    return notes


def _looks_up(reader: onnx.NodeProto, values: str) -> bool:
    """Tell whether a node takes rows of a table."""
    axis = next((attribute.i for attribute in reader.attribute if attribute.name == "axis"), 0)
    return reader.op_type == "Gather" and axis == 0 and reader.input[0] == values


@dataclass(frozen=True)
class _Table:
    """A matrix of codes [rows, columns] with its scales and zero points (or ""): one, one per row, or [rows, blocks].

    Attributes:
        bits: of the codes in the file.
        block: columns that share a scale; 0 where all do.
        single: the names of the scales and zero points that are one number.
    """

    codes: str
    scale: str
    zero: str
    rows: int
    columns: int
    bits: int
    block: int
    single: frozenset[str]


def _table(node: onnx.NodeProto, wiring: Wiring) -> _Table | None:
    """Return the table that a dequantizer reads, or None where its input is no matrix of codes of 8, 4 or 2 bits in rows."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    block, axis = attributes.get("block_size", 0), attributes.get("axis", 1)
    codes, scale, zero = [*node.input, ""][:3]
    tensor = wiring.tensors.get(codes)
    if tensor is None or tensor.data_type not in _WIDTHS or len(tensor.dims) != 2:
        return None
    rows, columns = tensor.dims
    wanted = [rows, -(-columns // block)] if block and axis == 1 else [rows] if not block and axis == 0 else None
    sizes = {name: _sizes(name, wiring) for name in (scale, zero) if name}
    single = frozenset(name for name, dims in sizes.items() if not block and dims is not None and set(dims) <= {1})
    if any(name not in single and (dims is None or dims != wanted) for name, dims in sizes.items()):
        return None
    return _Table(codes, scale, zero, rows, columns, _WIDTHS[tensor.data_type], block, single)


def _sizes(name: str, wiring: Wiring) -> list[int] | None:
    """Return the sizes of a constant, or of one that is cast or dequantized, or None."""
    while name not in wiring.tensors:
        node = wiring.producers.get(name)
        if node is None or node.op_type not in ("Cast", "DequantizeLinear"):
            return None
        name = node.input[0]
    return list(wiring.tensors[name].dims)


def _as_bytes(table: _Table, values: str, lookups: int, wiring: Wiring) -> bool:
    """Store 2-bit codes as bytes of four, the least 0, where rows are whole bytes and look-ups alone read them; tell whether it was done.

    GatherBlockQuantized has no type of 2 bits.
    """
    if table.columns % 4 or len(wiring.users[values]) > lookups or wiring.is_output(values) or len(wiring.users[table.codes]) > 1:
        return False
    tensor = wiring.tensors[table.codes]
    raw = moved(tensor.raw_data) if tensor.data_type == TensorProto.INT2 else tensor.raw_data
    tensor.CopyFrom(helper.make_tensor(table.codes, TensorProto.UINT8, [table.rows, table.columns // 4], raw, raw=True))
    return True


def moved(codes: bytes) -> bytes:
    """Return 2-bit codes, four in a byte, with 2 added to signed ones, or taken from unsigned ones: one operation on the highest bits."""
    return (np.frombuffer(codes, np.uint8) ^ 0b10101010).tobytes()


@dataclass(frozen=True, eq=False)
class _Lookup:
    """One look-up of `indices` in a table, that gives `output`."""

    table: _Table
    indices: str
    output: str
    wiring: Wiring
    made: list[onnx.NodeProto] = field(default_factory=list)

    def rows(self) -> list[onnx.NodeProto]:
        """Return the nodes of the look-up."""
        table = self.table
        if table.bits < 8 and self._at_once():
            self._packed(table.scale if table.block else self._column(table.scale), table.block, self.output)
            return self.made
        if table.bits < 8:
            one = self.wiring.constant(helper.make_tensor(_ONE, TensorProto.FLOAT, (), [1.0]))
            values = self._packed(self._column(one), 0, f"{self.output}.floats")
        else:
            codes = self._node("Gather", [table.codes, self.indices], "codes", axis=0)
            values = self._node("Cast", [codes], "floats", to=TensorProto.FLOAT)
        if table.zero:
            zero = self._node("Cast", [table.zero], "zeros", to=TensorProto.FLOAT)
            values = self._node("Sub", [values, self._of_rows(zero, "zero", table.zero in table.single)], "centred")
        scale = self._of_rows(table.scale, "scale", table.scale in table.single)
        self.made.append(helper.make_node("Mul", [values, scale], [self.output]))
        return self.made

    def _at_once(self) -> bool:
        """Tell whether GatherBlockQuantized takes the scales and zero points too; its zero points have the codes' type, and a block."""
        block = self.table.block
        fits = block == 0 or (block >= _LEAST_BLOCK and block & (block - 1) == 0)
        return fits and (not self.table.zero or (block > 0 and self.table.bits == 4))

    def _packed(self, scale: str, block: int, output: str) -> str:
        """Look packed codes up and multiply them by scales [rows, blocks]; a block of 0 is a row."""
        table, zeros = self.table, []
        if table.zero and table.bits == 2:
            zeros = [self._column(self.wiring.byte(0, TensorProto.UINT8))]  # without them it subtracts 2
        elif table.zero and block:
            zeros = [table.zero]
        inputs = [table.codes, self.indices, scale, *zeros]
        size = block or max(_LEAST_BLOCK, 1 << (table.columns - 1).bit_length())
        axes = {"gather_axis": 0, "quantize_axis": 1, "block_size": size} | ({"bits": 2} if table.bits == 2 else {})
        self.made.append(helper.make_node("GatherBlockQuantized", inputs, [output], domain=DOMAIN, **axes))
        return output

    def _column(self, numbers: str) -> str:
        """Return one number or one per row as [rows, 1]; the runtime computes it as it loads the file."""
        if self.wiring.scalar(numbers) is not None or numbers in self.table.single:
            return self._node("Expand", [numbers, self._integers("column", [self.table.rows, 1])], f"{numbers}.column")
        return self._node("Unsqueeze", [numbers, self._integers("last", [-1])], f"{numbers}.column")

    def _of_rows(self, values: str, name: str, single: bool) -> str:
        """Return scales or zero points for the rows that are looked up: one number, [..., 1] or [..., columns]."""
        if single:
            return values
        values = self._node("Gather", [values, self.indices], f"{name}.rows", axis=0)
        if not self.table.block:
            return self._node("Unsqueeze", [values, self._integers("last", [-1])], name)
        ends = [self._integers("start", 0), self._integers("stop", self.table.columns), self._integers("step", 1)]
        place = self._node("Range", ends, f"{name}.range")
        place = self._node("Div", [place, self._integers("block", self.table.block)], f"{name}.blocks")
        return self._node("Gather", [values, place], name, axis=-1)

    def _node(self, kind: str, inputs: list[str], name: str, **attributes: int) -> str:
        output = f"{self.output}.{name}"
        self.made.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _integers(self, name: str, values: int | list[int]) -> str:
        flat = values if isinstance(values, list) else [values]
        name = ".".join(["rows", name, *map(str, flat)])
        return self.wiring.constant(helper.make_tensor(name, TensorProto.INT64, [len(flat)] if isinstance(values, list) else (), flat))
