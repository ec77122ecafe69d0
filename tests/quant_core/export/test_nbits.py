"""Linear layers as MatMulNBits: outputs, the layers that it holds and those that stay, its level."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from quant_core.export.graph import Graph, quantized_graph
from quant_core.export.nbits import LEVEL
from quant_core.export.runtime import Session
from quant_core.export.stored import post_training
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.util.errors import InputError

X = torch.randn(16, 80, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Linear(80, 64), nn.ReLU(), nn.Linear(64, 40, bias=False), nn.ReLU(), nn.Linear(40, 5))
        return nn.Sequential(*layers).eval()


def exported(network: nn.Module, *texts: str) -> tuple[Graph, Tensor]:
    """Return the graph with the layers quantized by `texts` in turn, and what the simulation gives."""
    layers = trace(network, X)
    policy = Policy({layer.name: parse_layer_policy(texts[i % len(texts)]) for i, layer in enumerate(layers)})
    quantized = post_training(PostTraining(network, layers, [X], X), network, layers, policy, X)
    with torch.no_grad():
        return quantized_graph(quantized, products=True), quantized.simulation(X)


def products(graph: Graph) -> list[onnx.NodeProto]:
    return [node for node in graph.model.graph.node if node.op_type == "MatMulNBits"]


@pytest.mark.parametrize(
    ("spec", "bits", "block"),
    [
        ("int4:channel", 4, (64, 64, 32)),
        ("int4:group32", 4, (32, 32, 32)),
        ("int8:tensor", 8, (64, 64, 32)),
        ("int2:group64:affine", 2, (64, 64, 64)),
        ("int4:group16:affine", 4, (16, 16, 16)),
        ("int3:channel", 4, (64, 64, 32)),
        ("int6:channel", 8, (64, 64, 32)),
        ("int4:group48", 4, (16, 16, 16)),
        ("int8:group256", 8, (128, 128, 128)),
    ],
)
def test_outputs_are_the_simulations_up_to_the_rounding_of_inputs(
    network: nn.Module, spec: str, bits: int, block: tuple[int, int, int]
) -> None:
    graph, wanted = exported(network, f"weight={spec}")
    rows = [[helper.get_node_attr_value(node, key) for key in ("bits", "accuracy_level", "block_size")] for node in products(graph)]
    assert rows == [[bits, LEVEL, size] for size in block]
    outputs = Session(graph.model.SerializeToString(), ["input"])(X)
    assert float((outputs - wanted).abs().max()) <= 0.02 * float(wanted.abs().max())
    exact = onnx.ModelProto.FromString(graph.model.SerializeToString())
    for node in exact.graph.node:
        for attribute in node.attribute:
            attribute.i = 0 if attribute.name == "accuracy_level" else attribute.i
    np.testing.assert_allclose(
        Session(exact.SerializeToString(), ["input"])(X), wanted, rtol=1e-4, atol=1e-5, err_msg="level 0 rounds nothing"
    )


def test_layers_that_it_does_not_hold_stay_products_of_dequantized_weights(network: nn.Module) -> None:
    graph, wanted = exported(network, "weight=int4:channel", "weight=int8:channel,activation=int8:tensor", "weight=int2:group16")
    assert len(products(graph)) == 1
    assert graph.notes == (
        "MatMulNBits takes float inputs, these are int8:tensor; DequantizeLinear is used: 2",
        "MatMulNBits takes groups that are multiples of 32 at 2 bits, this is 16; DequantizeLinear is used: 4",
    )
    outputs = Session(graph.model.SerializeToString(), ["input"], fuse=False)(X)
    assert float((outputs - wanted).abs().max()) <= 0.02 * float(wanted.abs().max())


def test_a_policy_without_such_a_layer_is_refused(network: nn.Module) -> None:
    with pytest.raises(InputError, match=r"layer '0': MatMulNBits takes integers .*int4:vector16 \(and 2 more layers\)\. Use the format"):
        exported(network, "weight=int4:vector16")
    with pytest.raises(InputError, match="every weight is float"):
        exported(network, "weight=float")
