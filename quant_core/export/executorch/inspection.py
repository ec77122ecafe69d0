"""A written program of ExecuTorch, read back: the types that it stores, and the kernels by which XNNPACK computes its layers."""

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from quant_core.export.executorch import library, register, storage
from quant_core.export.kernels import Kernels, LayerKernel
from quant_core.export.stored import StoredLayer
from quant_core.util.errors import BitfrontError
from quant_core.util.text import first_fault

BACKEND = "XnnpackBackend"
_KINDS = {"XNNConv2d": "conv", "XNNDepthwiseConv2d": "conv", "XNNConvTranspose2d": "conv", "XNNFullyConnected": "linear"}
_OPERATORS = {
    "quantized_decomposed::embedding_byte": ("embedding", "8-bit weights"),
    "quantized_decomposed::embedding_4bit": ("embedding", "4-bit weights"),
    "aten::embedding": ("embedding", "float32"),
    "aten::convolution": ("conv", "float32"),
    "aten::addmm": ("linear", "float32"),
    "aten::linear": ("linear", "float32"),
}
"""Layers that ExecuTorch's own kernels compute."""
_PACKED = {"qcint8": "8", "qcint4": "4", "qbint4": "4"}


@dataclass(frozen=True)
class Operation:
    """A layer as a program computes it.

    Attributes:
        kind: conv, linear or embedding.
        kernel: "int8", "4-bit weights", "8-bit weights" or "float32".
        stored: the type of its weight, as `qcint8`; "" where XNNPACK does not hold it.
        key: SHA-256 of the weight's bytes, or "".
    """

    kind: str
    kernel: str
    stored: str = ""
    key: str = ""


@dataclass(frozen=True)
class Contents:
    """What a program holds: its layers in the order of execution, and the SHA-256 of all other constants."""

    operations: tuple[Operation, ...]
    constants: frozenset[str]


def contents(path: Path) -> Contents:
    """Return the layers and the other constants of a file.

    Raises:
        BitfrontError: it is no program of ExecuTorch.
    """
    reader = library("exir._serialize._program")
    try:
        program = reader.deserialize_pte_binary(path.read_bytes()).program
    except Exception as error:  # its errors share no base class
        raise BitfrontError(f"{path} is no program of ExecuTorch: {type(error).__name__}: {error}") from error
    rows: list[Operation] = []
    for plan in program.execution_plan:
        graphs = [_graph(program.backend_delegate_data[part.processed.index].data) for part in plan.delegates if part.id == BACKEND]
        for instruction in (entry for chain in plan.chains for entry in chain.instructions):
            call = instruction.instr_args
            if type(call).__name__ == "DelegateCall":
                rows += _delegated(graphs[call.delegate_index])
            elif type(call).__name__ == "KernelCall" and (word := _OPERATORS.get(plan.operators[call.op_index].name)):
                rows.append(Operation(*word))
    return Contents(tuple(rows), frozenset(_hash(bytes(buffer.storage)) for buffer in program.constant_buffer))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _graph(data: bytes) -> Mapping[str, Any]:
    """Return XNNPACK's graph in a delegate's data, as plain data."""
    serialize = library("backends.xnnpack.serialization.xnnpack_graph_serialize")
    flatbuffer = library("exir._serialize._flatbuffer")
    header = serialize.XNNHeader.from_bytes(data[: serialize.XNNHeader.EXPECTED_LENGTH])
    with tempfile.TemporaryDirectory() as folder:
        schema, binary = Path(folder, "schema.fbs"), Path(folder, "graph.bin")
        schema.write_bytes(resources.files("executorch.backends.xnnpack.serialization").joinpath("schema.fbs").read_bytes())
        binary.write_bytes(data[header.flatbuffer_offset :][: header.flatbuffer_size])
        flatbuffer._flatc_decompile(folder, str(schema), str(binary), ["--raw-binary"])
        text = re.sub(r": (-?inf|nan)\b", r': "\1"', Path(folder, "graph.json").read_text())  # limits of clamps
    graph: Mapping[str, Any] = json.loads(text)
    return graph


def _delegated(graph: Mapping[str, Any]) -> list[Operation]:
    values = {}
    for entry in graph["xvalues"]:
        value = entry["xvalue_union"].get("tensor_value", entry["xvalue_union"])
        values[value["id_out"]] = value
    rows = []
    for node in graph["xnodes"]:
        kind, arguments = _KINDS.get(node["xnode_union_type"]), node["xnode_union"]
        if kind is None:
            continue
        weight, source = values[arguments["filter_id"]], values[arguments["input1_id"]]
        stored = weight["datatype"].removeprefix("xnn_datatype_")
        key = graph["constant_data"][weight["constant_buffer_idx"]]["named_key"]
        packed = f"{_PACKED[stored]}-bit weights" if stored in _PACKED else "float32"
        static = source["datatype"] == "xnn_datatype_qint8" and stored in _PACKED
        rows.append(Operation(kind, "int8" if static else packed, stored, key))
    return rows


def kernels(path: Path, names: Sequence[str]) -> Kernels:
    """Return the kernels by which a program computes its layers.

    Args:
        path: the file.
        names: of the layers in network order; the operations are theirs in this order, where there are as many.
    """
    rows, seen = list[Operation](), set[str]()
    for row in contents(path).operations:  # a layer that is called again has the same weight
        if not row.key or row.key not in seen:
            rows.append(row)
        seen.add(row.key)
    counted = Kernels.of([LayerKernel("", row.kind, row.kernel) for row in rows])
    named = [LayerKernel(name, row.kind, row.kernel) for name, row in zip(names, rows, strict=True)] if len(names) == len(rows) else []
    return Kernels(counted.convolutions, counted.linears, tuple(named))


def stored_types(path: Path, stored: Sequence[StoredLayer], floats: Collection[str] = ()) -> str:
    """Return the types of the quantized weights of a file with how many layers have them, as `qcint4 x 3, qcint8 x 1`.

    Args:
        path: the file.
        stored: the layers.
        floats: layers whose quantized values are due in float32.

    Raises:
        BitfrontError: the codes of a layer are missing, or are not those of its policy, or have another type than is due.
    """
    held = contents(path)
    types = {row.key: row.stored for row in held.operations if row.key}
    counts, faults = Counter[str](), []
    for layer in stored:
        if layer.encoded is None:
            continue
        due = "fp32" if layer.layer.name in floats else storage.code_type(layer)
        key = _hash(storage.float_bytes(layer) if due == "fp32" else storage.packed_codes(layer))
        kind = types.get(key) or (due if key in held.constants and due not in _PACKED else "")
        if kind != due:
            said = f"its codes of {layer.policy.weight} are not in the file" if not kind else f"{layer.policy.weight} is stored as {kind}"
            faults.append(f"layer {layer.layer.name!r}: {said}, {due} is due")
        counts[kind] += 1
    if faults:
        raise BitfrontError(f"{first_fault(faults)}. Nothing was written.")
    return ", ".join(f"{kind} x {count}" for kind, count in sorted(counts.items())) or "fp32"


def outputs(path: Path, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return the first output of a program on one example.

    Raises:
        BitfrontError: ExecuTorch does not run it.
    """
    register()
    runtime = library("runtime")
    try:
        method = runtime.Runtime.get().load_program(path).load_method("forward")
        values: NDArray[Any] = method.execute([torch.from_numpy(array.copy()) for array in arrays.values()])[0].clone().numpy()
    except Exception as error:  # its errors share no base class
        raise BitfrontError(f"ExecuTorch does not run the file: {error}") from error
    return values
