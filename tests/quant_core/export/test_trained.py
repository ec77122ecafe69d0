"""What networks trained under a policy store: every method's weights and inputs, and batch norms that go into scales."""

import pytest
import torch
from torch import Tensor, nn

from quant_core.codecs.quantize import decode
from quant_core.export.graph import quantized_graph
from quant_core.export.norms import norms_into_scales
from quant_core.export.runtime import Session
from quant_core.export.stored import Quantized
from quant_core.export.trained import trained
from quant_core.network.forward import forward
from quant_core.network.trace import trace
from quant_core.qat import QatConfig
from quant_core.qat.loop import TrainingRun, supervised
from quant_core.qat.train import starting, train
from quant_core.spec.policy import Policy, parse_layer_policy

X = torch.rand(48, 3, 6, 6, generator=torch.Generator().manual_seed(0))
Y = (X.mean(dim=(1, 2, 3)) > X.mean()).long()


class Net(nn.Module):
    """Convolutions with batch norms, one with a bias, a depthwise one, and a layer without a norm; signed and unsigned inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.depthwise, self.norm2 = nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return self.head(torch.relu(self.norm2(self.depthwise(x))).mean(dim=(2, 3)))


def quantized(text: str, method: str, batch_norm: str = "freeze") -> Quantized:
    """Train the network under one policy for all layers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net()
        model(X)
        with torch.no_grad():
            model.norm.weight[:3] *= torch.tensor([-1.0, 0.0, 2.0])
        model.eval()
    layers = trace(model, X)
    policy = Policy({layer.name: parse_layer_policy(text) for layer in layers})
    config = QatConfig(method=method, epochs=1, lr=1e-3, batch_norm=batch_norm)
    run = TrainingRun([(X[:24], Y[:24]), (X[24:], Y[24:])], supervised(nn.functional.cross_entropy), config)
    prepared, _ = train(model, policy, run, calib=[X])
    return trained(prepared, starting(model, config, X), layers, policy, X)


LINEAR = [
    ("weight=int4:channel,activation=int8:tensor", "lsq"),
    ("weight=int3:tensor,activation=int4:tensor", "lsq"),
    ("weight=int4:group3,activation=int8:tensor", "lsq"),
    ("weight=int8:channel:affine,activation=int6:tensor:affine", "ste"),
    ("weight=int4:channel:mse,activation=int4:tensor", "mad"),
    ("weight=int4:channel,activation=int4:tensor", "pact"),
    ("weight=int3:channel", "dorefa"),
]


@pytest.mark.parametrize("batch_norm", ["freeze", "fold"])
@pytest.mark.parametrize(
    ("text", "method"),
    [
        *LINEAR,
        ("weight=kmeans3:tensor", "codebook"),
        ("weight=ternary:ttq,activation=int8:tensor", "ttq"),
        ("weight=binary:channel", "binary"),
    ],
)
def test_codes_and_grids_are_those_that_were_trained(text: str, method: str, batch_norm: str) -> None:
    network = quantized(text, method, batch_norm)
    with torch.inference_mode():
        wanted = network.simulation(X)
    plain = network.plain
    for layer in network.stored:
        assert layer.encoded is not None
        weight = decode(layer.encoded, layer.policy.weight, layer.layer.weight_shape, channel_axis=layer.layer.channel_axis)
        assert torch.equal(weight, network.simulation.get_submodule(layer.layer.name).get_parameter("weight"))
        assert (layer.grid is None) == layer.policy.activation.is_float
    quiet = parse_layer_policy(text).activation.is_float
    with torch.inference_mode():
        assert torch.equal(plain(X), wanted) == quiet, "nothing in the plain network quantizes inputs"
    assert bool(network.notes) == (method == "dorefa")
    assert any("running_mean" in name for name in network.base.state_dict()) == (batch_norm == "freeze")


@pytest.mark.parametrize(("text", "method"), LINEAR)
def test_onnxruntime_gives_what_was_trained_without_batch_norms(text: str, method: str) -> None:
    network = quantized(text, method)
    graph = quantized_graph(norms_into_scales(network)).model
    assert ("BatchNormalization" in {node.op_type for node in graph.graph.node}) == ("group" in text)
    with torch.inference_mode():
        wanted = forward(network.simulation, X)
    outputs = Session(graph.SerializeToString(), ["input"], fuse=False)(X)
    assert float(((outputs - wanted).abs() > 1e-4).any(dim=1).float().mean()) <= 0.1, "an input half-way between two codes, now and then"
    assert float((outputs - wanted).abs().max()) <= 0.05 * float(wanted.abs().max())


def test_gains_of_any_sign_go_into_scales() -> None:
    """A negative gain gives negative scales, a gain of zero codes that stand for zero."""
    network = quantized("weight=int8:channel:affine,activation=int8:tensor", "ste")
    with torch.no_grad():
        network.base.norm.weight[1] = 0.0  # type: ignore[union-attr,index]
        network.simulation.norm.weight[1] = 0.0  # type: ignore[union-attr,index]
    folded = norms_into_scales(network)
    conv = folded.stored[0]
    assert conv.encoded is not None
    assert conv.encoded.scale is not None
    assert (conv.encoded.scale[0] < 0, conv.encoded.scale[2] > 0) == (True, True)
    assert not conv.weight[1].any()
    wanted = folded.plain.conv(X)  # type: ignore[operator]
    torch.testing.assert_close(wanted, network.plain.norm(network.plain.conv(X)), rtol=1e-4, atol=1e-5)  # type: ignore[operator]
