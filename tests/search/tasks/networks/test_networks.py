"""The networks: sizes as published or stated."""

import pytest
import torch
from torch import nn

from quant_core.network.trace import trace
from search.tasks.networks import NETWORKS, build_network
from search.tasks.networks.digits import DigitsNet

# (weights, output pixels) of every layer, written down by hand; MACs are the sum of the products.
RESNET8 = [(144, 784), (2304, 784), (2304, 784), (4608, 196), (9216, 196), (512, 196), (18432, 49), (36864, 49), (2048, 49), (640, 1)]


RESNET20 = [(144, 784), *[(2304, 784)] * 6, (4608, 196), *[(9216, 196)] * 5, (18432, 49), *[(36864, 49)] * 5, (640, 1)]


DSCNN = [(1600, 196), (576, 196), (4096, 196), (576, 49), (4096, 49), *[(576, 49), (4096, 49)] * 2, (640, 1)]


MOBILENETV2 = [(144, 196), (144, 196), (256, 196)]  # stem; block without expansion


MOBILENETV2 += [(1024, 196), (576, 49), (1536, 49), (2304, 49), (864, 49), (2304, 49), (2304, 49), (864, 49), (3840, 49)]


MOBILENETV2 += [(6400, 49), (1440, 49), (6400, 49)] * 2 + [(6400, 49), (1600, 1)]


@pytest.mark.parametrize(
    ("name", "layers", "depthwise", "stated"),
    [
        ("resnet8", RESNET8, 0, 77_072),
        ("mobilenetv2", MOBILENETV2, 6, 52_640),
        ("dscnn", DSCNN, 4, 20_928),
        ("resnet20", RESNET20, 0, 268_048),
    ],
)
def test_trained_networks_are_those_of_their_tables(name: str, layers: list[tuple[int, int]], depthwise: int, stated: int) -> None:
    traced = trace(build_network(name, 1, 10).eval(), torch.zeros(2, 1, 28, 28))
    assert sorted((layer.weights, layer.macs) for layer in traced) == sorted((count, count * pixels) for count, pixels in layers)
    assert sum(layer.weights for layer in traced) == stated
    assert [layer.kind for layer in traced].count("depthwise") == depthwise


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("channels", "classes", "side"), [(1, 2, 28), (3, 10, 32)])
def test_trained_networks_map_images_to_logits(name: str, channels: int, classes: int, side: int) -> None:
    network = build_network(name, channels, classes)
    logits = network(torch.rand(4, channels, side, side))
    assert logits.shape == (4, classes)
    logits.sum().backward()
    assert all(parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()) for parameter in network.parameters())


def test_digits_net_keeps_its_residual() -> None:
    network = DigitsNet().eval()
    x = torch.rand(2, 1, 8, 8)
    before = network(x)
    nn.init.zeros_(network.pointwise2[1].weight)  # the branch's batch norm: what is left is the shortcut
    assert not torch.allclose(network(x), before)
    assert float(network(x).detach().std()) > 0


def test_resnet20_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in build_network("resnet20", 3, 10).parameters()) == 269_722
