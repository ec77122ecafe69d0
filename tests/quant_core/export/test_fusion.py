"""Graphs written for fusion: every network of these runs by integer kernels, and gives the simulation's outputs without them and with."""

import collections
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn
from torch.nn import functional

from quant_core.export import integer_products
from quant_core.export.graph import Graph, quantized_graph
from quant_core.export.kernels import Kernels, kernels
from quant_core.export.runtime import Session
from quant_core.export.stored import post_training
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy

X = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))
BYTES = "weight=int7:channel,activation=int8:tensor:ema"  # weights of 8 bits overflow in kernels without VNNI
SMALL = "weight=int4:channel:mse,activation=int6:tensor"


class SameConv(nn.Conv2d):
    """A convolution that pads its input itself, as EfficientNet's do: more at the end."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(functional.pad(x, [0, 1, 0, 1]), self.weight, self.bias, self.stride, 0, 1, self.groups)


class Residual(nn.Module):
    """Stem, expansion, depthwise, projection, residual sum, pooling, linear: a mobile network of one block."""

    def __init__(self, last: Callable[[Tensor], Tensor] = functional.relu6) -> None:
        super().__init__()
        self.stem, self.norm, self.reduce = SameConv(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.expand, self.depthwise = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.project, self.head, self.linear, self.last = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 12, 1), nn.Linear(12, 5), last

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(functional.relu6(self.norm(self.stem(x))))
        inner = functional.relu6(self.depthwise(functional.relu6(self.expand(x))))
        return self.linear(self.last(self.head(x + self.project(inner))).mean(dim=(2, 3)))


class Padded(nn.Module):
    """Padding outside the convolution, before its quantizer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(functional.pad(torch.relu(self.a(x)), [2, 1, 0, 1])).mean(dim=(2, 3))


class Joined(nn.Module):
    """Two branches pooled and joined before one quantizer, whose codes a reshape brings to the linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.c, self.d = nn.Conv2d(8, 4, 3, padding=1), nn.Linear(144, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([functional.max_pool2d(torch.relu(self.a(x)), 2), functional.max_pool2d(self.b(x), 2)], dim=1)
        return self.d(torch.relu(self.c(x)).flatten(1))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Biases are drawn as networks are made: of some an activation lies between two codes."""
    torch.manual_seed(0)


def exported(model: nn.Module, text: str = BYTES) -> tuple[Graph, Tensor]:
    """Return the graph of one uniform policy, and what the simulation gives."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(module.weight, std=0.4)
        model.train()(X)  # gives the batch norm statistics
    layers = trace(model.eval(), X)
    policy = Policy({layer.name: parse_layer_policy(text) for layer in layers})
    network = post_training(PostTraining(model, layers, [X], X), model, layers, policy, X)
    with torch.no_grad():
        return quantized_graph(network), network.simulation(X)


def counts(graph: Graph) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in graph.model.graph.node)


def run_by(graph: Graph, folder: Path) -> Kernels:
    (folder / "model.onnx").write_bytes(graph.model.SerializeToString())
    return kernels(folder / "model.onnx")


def check(graph: Graph, wanted: Tensor, *, coarse: bool = False) -> None:
    """Compare with the simulation: exactly up to the order of sums without fusion, to the rounding of biases with it."""
    data = graph.model.SerializeToString()
    torch.testing.assert_close(Session(data, ["input"], fuse=False)(X), wanted, rtol=1e-4, atol=1e-4)
    share = 0.3 if coarse else 0.05  # one of 16 codes is a large step
    assert float((Session(data, ["input"])(X) - wanted).abs().max()) <= share * float(wanted.abs().max())


@pytest.mark.parametrize(
    "policy", [BYTES, SMALL, "weight=int3:tensor,activation=int4:tensor", "weight=int5:channel:affine,activation=int8:tensor"]
)
@pytest.mark.parametrize("network", [Residual, Padded, Joined])
def test_outputs_are_the_simulations(network: type[nn.Module], policy: str) -> None:
    graph, wanted = exported(network(), policy)
    check(graph, wanted, coarse="int4:tensor" in policy)


@pytest.mark.parametrize("policy", [BYTES, SMALL])
def test_every_layer_of_a_mobile_network_is_computed_by_integers(tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_products, "FEWEST", 8)
    graph, _ = exported(Residual(), policy)
    assert run_by(graph, tmp_path) == Kernels((6, 6), (1, 1))
    assert "Pad" not in counts(graph)
    assert "Relu" not in counts(graph)


def test_relu6_is_dropped_where_the_grid_ends_there_and_clips_codes_elsewhere() -> None:
    graph, _ = exported(Residual())
    bounds = [tuple(node.input[1:3]) for node in graph.model.graph.node if node.op_type == "Clip"]
    assert len([names for names in bounds if not names[0].startswith("UINT8")]) == 1, "the one before the mean stays in float"
    assert len(bounds) == 1, "no code is clipped where the range of the grid lies within [0, 6]"
    wide, wanted = exported(Residual(), "weight=int8:channel,activation=int6:tensor")
    clips = [node for node in wide.model.graph.node if node.op_type == "Clip" and "UINT8" in node.input[1]]
    assert len(counts(wide)) > 0
    assert len({node.output[0] for node in clips}) == len(clips)
    check(wide, wanted)


def test_clips_become_clips_of_codes_where_the_grid_is_wider() -> None:
    """The range is that of all inputs; the network clips them to a part of it."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Hardtanh(-0.5, 0.25), nn.Conv2d(4, 2, 1), nn.Flatten())
    graph, wanted = exported(model, "weight=int7:channel,activation=int8:tensor")
    assert [node.op_type for node in graph.model.graph.node].count("Clip") == 1, "the symmetric grid has codes above 0.25"
    assert next(node for node in graph.model.graph.node if node.op_type == "Clip").input[1].startswith("UINT8.")
    check(graph, wanted)


def test_joined_branches_are_quantized_before_they_are_pooled(tmp_path: Path) -> None:
    graph, _ = exported(Joined())
    assert run_by(graph, tmp_path) == Kernels((3, 3), (1, 1))
    order = [node.op_type for node in graph.model.graph.node]
    assert order.index("QuantizeLinear", order.index("Conv")) < order.index("MaxPool") < order.index("Concat")
    assert "Pad" not in order


@pytest.mark.parametrize(("fewest", "integers"), [(1, 2), (4, 1), (5, 0)])
def test_convolutions_before_a_sum_stay_in_float_unless_they_are_1x1_of_many_channels(
    fewest: int, integers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integer_products, "FEWEST", fewest)

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.a(x) + self.b(x)).mean(dim=(2, 3))

    graph, wanted = exported(Sum())
    assert run_by(graph, tmp_path) == Kernels((integers, 3), (0, 0))
    check(graph, wanted)


@pytest.mark.parametrize("weight", ["int2", "int3", "int4", "int5", "int8"])
def test_few_bits_fill_seven_in_the_runtime_and_stay_themselves_in_the_file(weight: str) -> None:
    graph, _ = exported(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten()), f"weight={weight}:channel,activation=int8:tensor"
    )
    codes = next(tensor for tensor in graph.model.graph.initializer if tensor.name == "0.weight.codes")
    bits = int(weight[3:])
    assert codes.data_type == (TensorProto.INT4 if bits <= 4 else TensorProto.INT8)
    assert counts(graph)["Mul"] == 2 * (bits < 7) + 1  # the last convolution is computed in float: floats are made of its codes by a Mul
