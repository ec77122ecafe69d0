"""Graphs of batches that differ in more than their number of examples."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from quant_core.export.graph import quantized_graph
from quant_core.export.runtime import Session
from quant_core.export.stored import post_training
from quant_core.export.tagging import input_names
from quant_core.network.forward import forward
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy

IDS = torch.randint(32, (8, 7), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(8, 4, 9, 9, generator=torch.Generator().manual_seed(0))


class Lengths(nn.Module):
    """Tokens under a mask, and an image of any height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer, self.convolution = nn.Embedding(32, 8), nn.Linear(8, 8), nn.Conv2d(4, 8, 3, padding=1)

    def forward(self, tokens: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1]) / 8
        read = self.layer(self.embed(tokens) + positions[:, None]) * mask[..., None]
        return read + functional.interpolate(self.convolution(image), scale_factor=2).mean((2, 3))[:, None]


def test_axes_that_differ_between_batches_are_of_any_size() -> None:
    torch.manual_seed(0)
    model = Lengths().eval()

    def batch(length: int, height: int) -> dict[str, Tensor]:
        return {"tokens": IDS[:, :length], "mask": torch.ones(8, length), "image": IMAGES[:, :, :height]}

    example, others = batch(5, 9), (batch(7, 9), batch(5, 6))
    layers = trace(model, example)
    policy = Policy({layer.name: parse_layer_policy("weight=int8:channel,activation=int8:tensor") for layer in layers})
    network = post_training(PostTraining(model, layers, [example], example), model, layers, policy, example)
    graph = quantized_graph(replace(network, others=others)).model
    sizes = {value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.graph.input}
    assert sizes == {"tokens": ["batch", "tokens_axis1"], "mask": ["batch", "tokens_axis1"], "image": ["batch", 4, "image_axis2", 9]}
    session = Session(graph.SerializeToString(), input_names(example), fuse=False)
    for other in (example, *others, batch(3, 4), tree_map(lambda leaf: leaf[:1], batch(1, 7))):
        with torch.no_grad():
            wanted = forward(network.simulation, other)
        assert float((session(other) - wanted).abs().max()) <= 0.02 * float(wanted.abs().max())
