"""What reconstructed networks store: the codes and grids of the simulation, in memory and in onnxruntime."""

import pickle

import pytest
import torch
from torch import Tensor, nn

from quant_core.codecs.quantize import decode
from quant_core.export.graph import quantized_graph
from quant_core.export.reconstructed import reconstructed
from quant_core.export.runtime import Session
from quant_core.export.stored import Quantized
from quant_core.network.forward import forward
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.reconstruct import ReconstructConfig
from quant_core.reconstruct.results import Reconstructed
from quant_core.reconstruct.run import reconstruct
from quant_core.spec.policy import Policy, parse_layer_policy

X = torch.rand(32, 3, 6, 6, generator=torch.Generator().manual_seed(0)) - 0.2


class Net(nn.Module):
    """Convolutions with batch norms, a depthwise one in a residual sum, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6, padding=1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head((x + torch.relu(self.depthwise(x))).mean(dim=(2, 3)))


def quantized(text: str) -> tuple[Quantized, Reconstructed]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net()
        model(X)
        model.eval()
    layers = trace(model, X)
    policy = Policy({layer.name: parse_layer_policy(text) for layer in layers})
    engine = PostTraining(model, layers, [X], X)
    result = reconstruct(engine, model, policy, [X], ReconstructConfig(steps=40, lr=0.1, step_lr=0.01, loss="mse"))
    return reconstructed(result, model, layers, policy, X), result


TEXTS = [
    "weight=int4:channel:mse,activation=int8:tensor:mse",
    "weight=int3:group3:mse,activation=int4:tensor:mse",
    "weight=int4:channel:mse:affine,activation=int6:tensor:affine",
    "weight=int3:tensor:mse",
]


@pytest.mark.parametrize("text", [*TEXTS, "weight=kmeans3:tensor", "weight=ternary:twn,activation=int8:token", "weight=mxfp4"])
def test_codes_and_grids_are_those_of_the_simulation(text: str) -> None:
    network, result = quantized(text)
    with torch.inference_mode():
        wanted = result.simulation(X)
        assert torch.equal(network.simulation(X), wanted)
        assert torch.equal(pickle.loads(pickle.dumps(network.simulation))(X), wanted)
        assert torch.equal(network.plain(X), wanted) == parse_layer_policy(text).activation.is_float
    for layer in network.stored:
        assert layer.encoded is not None
        weight = decode(layer.encoded, layer.policy.weight, layer.layer.weight_shape, channel_axis=layer.layer.channel_axis)
        assert torch.equal(weight, result.simulation.get_submodule(layer.layer.name).get_parameter("weight"))
        quantizer = result.inputs.get(layer.layer.name)
        assert layer.grid == (None if quantizer is None else quantizer.static)


@pytest.mark.parametrize("text", TEXTS)
def test_onnxruntime_gives_what_was_reconstructed(text: str) -> None:
    network, _ = quantized(text)
    graph = quantized_graph(network).model
    with torch.inference_mode():
        wanted = forward(network.simulation, X)
    outputs = Session(graph.SerializeToString(), ["input"], fuse=False)(X)
    assert float(((outputs - wanted).abs() > 1e-4).any(dim=1).float().mean()) <= 0.1, "an input half-way between two codes, now and then"
    assert float((outputs - wanted).abs().max()) <= 0.05 * float(wanted.abs().max())
