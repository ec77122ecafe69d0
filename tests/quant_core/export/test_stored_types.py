"""The types of a file, read back: an ignored width or another code is an error."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from quant_core.export.graph import quantized_graph
from quant_core.export.stored import Quantized, post_training
from quant_core.export.stored_types import stored_types
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.util.errors import BitfrontError

X = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
TEXTS = ("weight=int4:channel,activation=int8:tensor", "weight=int8:channel")


def written(path: Path, *, products: bool = False) -> Quantized:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)).eval()
    layers = trace(model, X)
    policy = Policy({layer.name: parse_layer_policy(text) for layer, text in zip(layers, TEXTS, strict=True)})
    network = post_training(PostTraining(model, layers, [X], X), model, layers, policy, X)
    onnx.save(quantized_graph(network, products=products).model, path)
    return network


@pytest.mark.parametrize(("products", "types"), [(False, "INT4 x 1, INT8 x 1"), (True, "8 bits x 1, INT4 x 1")])
def test_types_are_counted(tmp_path: Path, products: bool, types: str) -> None:
    network = written(tmp_path / "m.onnx", products=products)
    assert stored_types(tmp_path / "m.onnx", network.stored) == types


@pytest.mark.parametrize(
    ("name", "message"),
    [("other", "layer '1': its int8:channel codes are not in the file"), ("1.weight.codes", "codes in INT8 are not those")],
)
def test_codes_that_are_not_the_layers_are_an_error(tmp_path: Path, name: str, message: str) -> None:
    network = written(tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "1.weight.codes")
    tensor.name, tensor.raw_data = name, bytes(len(tensor.raw_data))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(BitfrontError, match=message):
        stored_types(tmp_path / "m.onnx", network.stored)
