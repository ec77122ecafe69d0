import pytest
import torch
from torch import Tensor, nn

from quant_core.errors import InputError
from quant_core.trace import NeverCalledWarning, trace


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.body(x)
        if x.sum() > -1e9:  # data-dependent control flow
            x = x * 1.0
        return self.head(x.mean(dim=(2, 3)))


def test_shapes_macs_and_kinds() -> None:
    layers = trace(Residual().eval(), torch.randn(5, 1, 8, 8))
    assert [layer.name for layer in layers] == ["stem", "body.0", "body.2", "head"]
    assert [layer.kind for layer in layers] == ["conv", "depthwise", "conv", "linear"]
    assert [layer.macs for layer in layers] == [64 * 4 * 9, 64 * 4 * 9, 64 * 4 * 4, 40]
    assert layers[0].in_size == layers[0].out_size == (8, 8)
    assert layers[3].in_size == (1,)


def test_residual_branch_is_alive_only_where_it_is_needed() -> None:
    layers = {layer.name: layer for layer in trace(Residual().eval(), torch.randn(1, 1, 8, 8))}
    assert layers["stem"].live_elements == 0
    assert layers["body.0"].live_elements == 0, "the branch is this layer's own input"
    assert layers["body.2"].live_elements == 4 * 64
    assert layers["head"].live_elements == 0


def test_plain_chain_keeps_nothing_alive() -> None:
    chain = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)))
    assert [layer.live_elements for layer in trace(chain, torch.randn(3, 8))] == [0, 0, 0, 0]


def test_shared_layer_is_one_decision() -> None:
    shared = nn.Linear(6, 6)
    layers = trace(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(2, 6))
    assert [(layer.name, layer.calls, layer.macs) for layer in layers] == [("0", 2, 72)]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.unused = nn.Linear(3, 3)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.embed(tokens))


def test_tied_and_never_called_layers() -> None:
    with pytest.warns(NeverCalledWarning, match="unused"):
        layers = trace(Tied(), torch.zeros(2, 5, dtype=torch.long))
    assert [(layer.name, layer.calls, layer.tied_to) for layer in layers] == [("embed", 1, ""), ("out", 1, "embed"), ("unused", 0, "")]
    assert layers[1].in_size == (5,)
    assert layers[1].macs == 5 * 6 * 11


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed_convolution(dims: int) -> None:
    module = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dims](4, 6, 2, stride=2, groups=2)
    (layer,) = trace(module, torch.randn(2, 4, *[5] * dims))
    assert (layer.kind, layer.channel_axis, layer.out_size) == ("conv_transpose", 1, (10,) * dims)
    assert layer.macs == 4 * 5**dims * 3 * 2**dims


def test_transformers_conv1d_is_a_linear_layer_with_its_channels_last() -> None:
    utils = pytest.importorskip("transformers.pytorch_utils")
    (layer,) = trace(utils.Conv1D(7, 3), torch.randn(2, 4, 3))
    assert (layer.kind, layer.in_channels, layer.out_channels, layer.channel_axis, layer.macs) == ("linear", 3, 7, 1, 84)


def test_tuple_and_dict_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.layer(a + b)

    x = torch.randn(4, 3)
    assert trace(Two(), (x, x)) == trace(Two(), {"a": x, "b": x})


def test_network_without_layers_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to quantize"):
        trace(nn.ReLU(), torch.randn(2, 3))
