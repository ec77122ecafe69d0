"""Embeddings: the rows that are looked up become floats, not the whole table, and their values stay."""

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from quant_core.export.graph import quantized_graph
from quant_core.export.runtime import Session
from quant_core.export.stored import Quantized, post_training
from quant_core.export.stored_types import stored_types
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy


class Words(nn.Module):
    """Two look-ups in one table, and a linear layer that may share it."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(50, 16), nn.Linear(16, 50)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return a score per word: [n, length] -> [n, length, 50]."""
        hidden: Tensor = self.head(self.words(x) + self.words(x.flip(1)))
        return hidden


def network(text: str, *, tied: bool = False) -> Quantized:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, batch = Words(tied).eval(), torch.randint(0, 50, (3, 7))
    layers = trace(model, batch)
    policy = Policy({layer.name: parse_layer_policy(text if tied or layer.kind == "embedding" else "weight=float") for layer in layers})
    return post_training(PostTraining(model, layers, [batch], batch), model, layers, policy, batch)


def written(quantized: Quantized, folder: Path, largest: float = 1e-5) -> Counter[str]:
    """Write the file and compare its outputs; return the operations that read the table, by kind."""
    path = folder / "model.onnx"
    onnx.save(quantized_graph(quantized).model, path)
    wanted = quantized.simulation(quantized.example).detach().numpy()
    assert abs(Session(path, ["input"]).arrays({"input": quantized.example.numpy()}) - wanted).max() <= largest
    stored_types(path, quantized.stored)
    return Counter(node.op_type for node in onnx.load(path).graph.node if "words.weight.codes" in node.input)


@pytest.mark.parametrize("weight", ["int8:channel", "int8:tensor", "int8:channel:affine", "int6:channel", "int8:tensor:affine"])
def test_codes_of_eight_bits_are_looked_up_before_they_become_floats(tmp_path: Path, weight: str) -> None:
    assert written(network(f"weight={weight}"), tmp_path) == {"Gather": 2}


def test_a_layer_that_shares_the_table_reads_all_of_it(tmp_path: Path) -> None:
    kinds = written(network("weight=int8:channel", tied=True), tmp_path, 0.05)  # onnxruntime rounds the inputs of such a product
    assert kinds["Gather"] == 2
    assert sum(kinds.values()) == 3


@pytest.mark.parametrize("weight", ["int4:channel", "int8:group8"])
def test_other_tables_stay_as_they_are(tmp_path: Path, weight: str) -> None:
    assert written(network(f"weight={weight}"), tmp_path) == {"DequantizeLinear": 1}
