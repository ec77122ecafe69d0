"""Graphs of quantized networks: where quantizers come to stand, and that the values stay. No executorch is needed."""

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from quant_core.export.executorch import program
from quant_core.export.executorch.storage import stored_weight
from quant_core.export.stored import Quantized, post_training
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy

pytest.importorskip("torch.ao.quantization.fx._decomposed")
pytest.importorskip("torchao.quantization.quant_primitives")
X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
INT8, ROWS = "weight=int8:channel,activation=int8:tensor", "weight=int8:channel"


class Residual(nn.Module):
    """A sum of a layer's output and its input, which two layers read on one grid."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.last(x + self.branch(x)).mean(dim=(2, 3))


def chain(*between: nn.Module, last: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *between, last or nn.Conv2d(4, 2, 1), nn.Flatten())


def quantized(model: nn.Module, text: str, x: Tensor = X) -> Quantized:
    layers = trace(model.eval(), x)
    policy = Policy({layer.name: parse_layer_policy(text) for layer in layers})
    return post_training(PostTraining(model, layers, [x], x), model, layers, policy, x)


def graph_of(network: Quantized, *, static: bool = True) -> tuple[GraphModule, dict[str, str]]:
    weights = {stored.layer.name: stored_weight(stored) for stored in network.stored}
    return program._quantized_graph(network, weights, (), static=static)


def count(module: GraphModule, name: str) -> int:
    return sum(name in str(node.target) for node in module.graph.nodes)


def difference(module: GraphModule, network: Quantized) -> float:
    return float((module(X[:1])[0] - network.simulation(X)[:1]).abs().max())


@pytest.mark.parametrize(
    ("between", "text", "by_row"),
    [
        ((nn.ReLU(),), INT8, 1),
        ((nn.ReLU6(),), INT8, 1),
        ((nn.ReLU(), nn.MaxPool2d(2)), INT8, 1),
        ((nn.MaxPool2d(2), nn.Dropout()), INT8, 1),
        ((nn.ReLU(), nn.AvgPool2d(2)), INT8, 2),
        ((nn.Sigmoid(),), INT8, 2),
        ((nn.ReLU(inplace=True),), "weight=int4:channel,activation=int4:tensor", 1),
        ((nn.ReLU(),), ROWS, 2),
    ],
)
def test_a_layer_is_static_where_only_an_activation_function_stands_before_the_next_quantizer(
    between: tuple[nn.Module, ...], text: str, by_row: int
) -> None:
    network = quantized(chain(*between), text)
    module, left = graph_of(network)
    assert left == {}
    assert count(module, "choose_qparams") == by_row
    assert difference(module, network) <= 0.01


def test_without_static_layers_all_ranges_are_taken_as_it_runs() -> None:
    module, left = graph_of(quantized(chain(nn.ReLU()), INT8), static=False)
    assert (count(module, "choose_qparams"), left) == (2, {})


def test_a_depthwise_convolution_is_left_where_its_output_stays_in_float() -> None:
    depthwise = nn.Conv2d(4, 4, 3, groups=4)
    assert list(graph_of(quantized(chain(nn.ReLU(), last=depthwise), INT8))[1]) == ["2"]
    between = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.ReLU(), nn.Conv2d(3, 2, 1))
    assert graph_of(quantized(between, INT8), static=False)[1] == {}


def test_codes_below_eight_bits_are_limited_within_the_activation_function() -> None:
    network = quantized(chain(nn.ReLU()), "weight=int8:channel,activation=int3:tensor")
    module, _ = graph_of(network)
    assert (count(module, "relu"), count(module, "hardtanh")) == (0, 2)  # one before the first layer
    assert difference(module, network) <= 0.01
    limits = [node.args[1:] for node in module.graph.nodes if "hardtanh" in str(node.target)]
    assert all(low == 0 and high > 0 for low, high in limits)


def test_a_sum_takes_what_was_not_quantized_and_equal_quantizers_are_one() -> None:
    network = quantized(Residual(), INT8)
    module, _ = graph_of(network)
    assert count(module, "quantize_per_tensor.default") == 6  # three quantizers and their inverses
    assert count(module, "choose_qparams") == 3
    assert difference(module, network) <= 0.01


def test_layers_that_read_one_value_share_its_ranges() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.two(x)

    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert count(graph_of(quantized(Two(), INT8, x))[0], "choose_qparams") == 1


def test_a_weight_that_the_network_reads_otherwise_is_named() -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x) + self.first.weight.sum()

    _, left = graph_of(quantized(Read(), ROWS, torch.randn(4, 8, generator=torch.Generator().manual_seed(0))))
    assert left == {"first": "XNNPACK has packed weights of linear layers and convolutions; the network reads it otherwise"}
