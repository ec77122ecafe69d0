"""The ONNX exporter around the graph: batch sizes, and onnxruntime's options."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from quant_core.export.graph import quantized_graph
from quant_core.export.runtime import Session
from quant_core.export.stored import Quantized, post_training
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.util.errors import InputError
from search.exporters.onnx_qdq import _require_any_batch

X = torch.randn(8, 5, 6, generator=torch.Generator().manual_seed(0))


class Shaped(nn.Module):
    """A network that shapes what is between its layers by `shape`."""

    def __init__(self, shape: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.shape = nn.Linear(6, 6), nn.Linear(6, 3), shape

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shape(self.first(x)))


def quantized(model: nn.Module) -> Quantized:
    layers = trace(model.eval(), X)
    policy = Policy({layer.name: parse_layer_policy("weight=int8:channel,activation=int8:tensor") for layer in layers})
    return post_training(PostTraining(model, layers, [X], X), model, layers, policy, X)


def checked(model: nn.Module) -> None:
    network = quantized(model)
    _require_any_batch(network, Session(quantized_graph(network).model.SerializeToString(), ["input"], fuse=False))


@pytest.mark.parametrize(
    "shape",
    [
        lambda x: x.reshape(x.shape[0], -1, 6),
        lambda x: x + torch.zeros(x.shape[0], 1, 6),
        lambda x: x.reshape(-1, 6),
        lambda x: x * torch.arange(x.shape[0]).view(-1, 1, 1).clamp(max=0).add(1),
    ],
)
def test_any_batch_size_runs(shape: Callable[[Tensor], Tensor]) -> None:
    checked(Shaped(shape))


@pytest.mark.parametrize(
    "shape",
    [
        lambda x: x.reshape(int(x.shape[0]), 5, 6),
        lambda x: x + torch.zeros(int(x.shape[0]), 1, 6),
        lambda x: x[: int(x.shape[0])] / int(x.shape[0]),
    ],
)
def test_a_batch_size_that_the_network_holds_as_a_constant_is_refused(shape: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match=r"the ONNX graph runs at one batch size only \(.*x\.reshape\(x\.shape\[0\], -1\)\.$"):
        checked(Shaped(shape))
