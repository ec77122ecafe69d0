"""Embeddings: the rows that are looked up become floats, not the whole table, and their values stay."""

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quant_core.export.graph import quantized_graph
from quant_core.export.lookups import look_up_codes
from quant_core.export.runtime import Session
from quant_core.export.stored import Quantized, post_training
from quant_core.export.stored_types import stored_types
from quant_core.export.wiring import Wiring
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.util.errors import BitfrontError


class Words(nn.Module):
    """Two look-ups in one table, and a linear layer that may share it."""

    def __init__(self, tied: bool, width: int) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(50, width), nn.Linear(width, 50)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return a score per word: [n, length] -> [n, length, 50]."""
        hidden: Tensor = self.head(self.words(x) + self.words(x.flip(1)))
        return hidden


def network(text: str, *, tied: bool = False, width: int = 32) -> Quantized:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, batch = Words(tied, width).eval(), torch.randint(0, 50, (3, 7))
    layers = trace(model, batch)
    policy = Policy({layer.name: parse_layer_policy(text if tied or layer.kind == "embedding" else "weight=float") for layer in layers})
    return post_training(PostTraining(model, layers, [batch], batch), model, layers, policy, batch)


def output(path: Path, quantized: Quantized) -> NDArray[Any]:
    return Session(path, ["input"]).arrays({"input": quantized.example.numpy()})


def written(quantized: Quantized, folder: Path, largest: float = 1e-5) -> Counter[str]:
    """Write the file and compare its outputs; return the operations that read the table, by kind."""
    path = folder / "model.onnx"
    onnx.save(quantized_graph(quantized).model, path)
    wanted = quantized.simulation(quantized.example).detach().numpy()
    assert abs(output(path, quantized) - wanted).max() <= largest
    stored_types(path, quantized.stored)
    return Counter(node.op_type for node in onnx.load(path).graph.node if "words.weight.codes" in node.input)


BYTES = [
    "int8:channel",
    "int8:tensor",
    "int8:channel:affine",
    "int6:channel",
    "int8:tensor:affine",
    "int8:group8",
    "int8:group32:affine",
    "nvfp4",
]
NIBBLES = ["int4:channel", "int4:tensor", "int3:channel", "int4:group16", "int4:group32:affine", "int4:vector16"]
IN_STEPS = ["int4:channel:affine", "int4:tensor:affine", "int4:group8", "int4:group24:affine"]
TWO_BITS = ["int2:channel", "int2:tensor", "int2:channel:affine", "int2:tensor:affine", "int2:group16", "int2:group8:affine"]


@pytest.mark.parametrize("weight", BYTES)
def test_codes_of_eight_bits_are_looked_up_before_they_become_floats(tmp_path: Path, weight: str) -> None:
    assert written(network(f"weight={weight}"), tmp_path) == {"Gather": 2}


@pytest.mark.parametrize("weight", NIBBLES + IN_STEPS)
def test_codes_of_four_bits_are_looked_up_packed(tmp_path: Path, weight: str) -> None:
    assert written(network(f"weight={weight}"), tmp_path) == {"GatherBlockQuantized": 2}
    subtracted = [node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type == "Sub"]
    assert len(subtracted) == (2 if "affine" in weight and weight in IN_STEPS else 0)


@pytest.mark.parametrize("weight", TWO_BITS)
def test_codes_of_two_bits_are_looked_up_in_bytes_of_four(tmp_path: Path, weight: str) -> None:
    quantized = network(f"weight={weight}")
    assert written(quantized, tmp_path) == {"GatherBlockQuantized": 2}
    graph = onnx.load(tmp_path / "model.onnx").graph
    codes = next(tensor for tensor in graph.initializer if tensor.name == "words.weight.codes")
    assert (codes.data_type, list(codes.dims), len(codes.raw_data)) == (onnx.TensorProto.UINT8, [50, 8], 50 * 8)
    assert stored_types(tmp_path / "model.onnx", quantized.stored) == ("UINT2 x 1" if "affine" in weight else "INT2 x 1")


@pytest.mark.parametrize("weight", ["int2:channel", "int2:channel:affine"])
def test_other_codes_of_two_bits_in_bytes_of_four_are_an_error(tmp_path: Path, weight: str) -> None:
    quantized = network(f"weight={weight}")
    model = quantized_graph(quantized).model
    codes = next(tensor for tensor in model.graph.initializer if tensor.name == "words.weight.codes")
    codes.raw_data = bytes([codes.raw_data[0] ^ 1]) + codes.raw_data[1:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(BitfrontError, match=r"layer 'words': the codes in U?INT2 are not those of int2:channel"):
        stored_types(tmp_path / "model.onnx", quantized.stored)


@pytest.mark.parametrize(("width", "tied"), [(30, False), (32, True)])
def test_tables_of_two_bits_stay_where_a_row_ends_within_a_byte_or_a_layer_shares_them(tmp_path: Path, width: int, tied: bool) -> None:
    assert written(network("weight=int2:channel", width=width, tied=tied), tmp_path, 0.05) == {"DequantizeLinear": 1}


@pytest.mark.parametrize("weight", BYTES + NIBBLES + IN_STEPS + TWO_BITS)
@pytest.mark.parametrize("width", [16, 27])
def test_the_values_and_the_bytes_are_those_of_the_dequantized_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weight: str, width: int
) -> None:
    quantized = network(f"weight={weight}", width=width)
    looked_up = quantized_graph(quantized)
    monkeypatch.setattr("quant_core.export.graph.look_up_codes", lambda wiring: [])
    whole = quantized_graph(quantized)
    outputs = []
    for name, graph in (("rows", looked_up), ("table", whole)):
        onnx.save(graph.model, tmp_path / name)
        outputs.append(output(tmp_path / name, quantized))
    readers = {node.op_type for node in looked_up.model.graph.node if "words.weight.codes" in node.input}
    assert ("DequantizeLinear" in readers) == (weight in TWO_BITS and width == 27)
    assert (outputs[0] == outputs[1]).all()
    tensors = [[tensor for tensor in graph.model.graph.initializer if "words" in tensor.name] for graph in (looked_up, whole)]
    rows, table = ({tensor.name: len(tensor.raw_data) for tensor in its} for its in tensors)
    assert rows == table
    assert looked_up.payload == whole.payload


@pytest.mark.parametrize(("bits", "kind"), [(8, "Gather"), (4, "GatherBlockQuantized")])
def test_a_layer_that_shares_the_table_reads_all_of_it(tmp_path: Path, bits: int, kind: str) -> None:
    kinds = written(network(f"weight=int{bits}:channel", tied=True), tmp_path, 0.05)  # onnxruntime rounds the inputs of such a product
    assert kinds[kind] == 2
    assert sum(kinds.values()) == 3


def test_a_note_says_that_packed_tables_are_for_onnxruntime() -> None:
    (note,) = [note for note in quantized_graph(network("weight=int4:channel")).notes if "GatherBlockQuantized" in note]
    assert note.endswith("so the file runs in onnxruntime alone: words")
    assert not quantized_graph(network("weight=int8:channel")).notes


def test_tables_of_wider_codes_stay_as_they_are(tmp_path: Path) -> None:
    assert written(network("weight=int12:channel"), tmp_path) == {"DequantizeLinear": 1}


@pytest.mark.parametrize("returned", [False, True])
def test_a_table_of_two_bits_that_the_graph_returns_stays(returned: bool) -> None:
    constants = [
        onnx.helper.make_tensor("q", onnx.TensorProto.INT2, [2, 4], bytes(2), raw=True),
        onnx.helper.make_tensor("s", onnx.TensorProto.FLOAT, [2], [1.0, 2.0]),
    ]
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["q", "s"], ["table"], axis=0),
        onnx.helper.make_node("Gather", ["table", "i"], ["rows"], axis=0),
    ]
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("rows", "table")[: 1 + returned]]
    indices = onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, [3])
    wiring = Wiring(onnx.helper.make_graph(nodes, "g", [indices], outputs), constants)
    assert len(look_up_codes(wiring)) == (0 if returned else 1)
    assert constants[0].data_type == (onnx.TensorProto.INT2 if returned else onnx.TensorProto.UINT8)
