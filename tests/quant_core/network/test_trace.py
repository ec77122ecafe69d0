import pytest
import torch
from torch import Tensor, nn

from hw_models.loading import load_device
from hw_models.table import cost_policy
from quant_core.network.trace import trace
from quant_core.spec.policy import parse_layer_policy
from quant_core.spec.size import float_bytes, weight_bytes
from quant_core.util.errors import BitfrontError, InputError, LeftInFloatWarning
from spaces.rules import uniform_policy


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
    with pytest.warns(LeftInFloatWarning, match="unused"):
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


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(input=torch.relu(self.first(input=x)))


def test_layers_that_are_called_by_keyword() -> None:
    layers = trace(ByKeyword(), torch.randn(5, 3))
    assert [(layer.name, layer.calls, layer.macs) for layer in layers] == [("first", 1, 12), ("second", 1, 8)]


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.place = nn.Parameter(torch.zeros(1, 6, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lstm(x)[0] + self.place
        return self.head(self.attention(x, x, x)[0])


def test_weights_of_other_modules_are_layers_and_what_is_left_in_float_is_named() -> None:
    with pytest.warns(LeftInFloatWarning) as caught:
        layers = trace(Attends(), torch.randn(2, 6, 4))
    assert [(layer.name, layer.macs, layer.weight_only) for layer in layers] == [
        ("lstm.weight_ih_l0", 6 * 16 * 4, False),
        ("lstm.weight_hh_l0", 6 * 16 * 4, True),
        ("attention.in_proj_weight", 6 * 12 * 4, False),
        ("attention.out_proj", 6 * 4 * 4, True),
        ("head", 6 * 2 * 4, False),
    ]
    (text,) = [str(warning.message) for warning in caught]
    assert text == "weights that belong to no quantizable layer, left in float: the network itself (Attends: place)"


def test_a_parameter_that_is_named_is_a_layer() -> None:
    layers = {layer.name: layer for layer in trace(Attends(), torch.randn(2, 6, 4), parameters=["pla*"])}
    assert (layers["place"].weight_shape, layers["place"].stack_shape, layers["place"].macs) == ((6, 4), (1, 6, 4), 0)
    with pytest.raises(InputError, match=r"'nowhere' matches no parameter of two or more axes; there are: place, lstm.weight_ih_l0"):
        trace(Attends(), torch.randn(2, 6, 4), parameters=["nowhere"])


class Branches(nn.Module):
    """One of two layers, by the sign of an example's first value; a table that no example changes."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.table = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.table(torch.ones(5, 3)).sum() + torch.zeros(len(x), 2)
        for layer, rows in ((self.left, x[:, 0] < 0), (self.right, x[:, 0] >= 0)):
            if rows.any():
                outputs[rows] += layer(x[rows])
        return outputs


def test_batches_find_branches_and_macs_are_means_over_them() -> None:
    x = torch.tensor([[-1.0, 0, 0], [1, 0, 0], [-1, 0, 0], [-1, 0, 0]])
    layers = {layer.name: layer for layer in trace(Branches(), x, [x, x])}
    assert {name: (layer.calls, layer.macs) for name, layer in layers.items()} == {
        "table": (1, 30),
        "left": (1, 4),  # 6 in three of four examples, 4.5
        "right": (1, 2),  # 1.5
    }
    with pytest.warns(LeftInFloatWarning, match="never called by the example, left in float: right"):
        assert trace(Branches(), x)[-1].name == "right"


class Returns(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind = nn.Linear(3, 2), kind

    def forward(self, x: Tensor) -> object:
        outputs = self.layer(x)
        return {"tuple": (None, "text"), "dict": {"out": outputs.tolist()}}[self.kind]


@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_outputs_that_are_no_tensor_are_refused(kind: str) -> None:
    with pytest.raises(BitfrontError, match=f"the network gave a {kind} with the parts .*; a tensor is needed"):
        trace(Returns(kind), torch.randn(2, 3))


def test_network_that_fails_says_on_what() -> None:
    with pytest.raises(BitfrontError, match=r"failed on one example of shape \(1, 5\) with RuntimeError: mat1 and mat2 shapes cannot"):
        trace(nn.Linear(3, 2), torch.randn(4, 5))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_modules_are_refused() -> None:
    with pytest.raises(InputError, match="lazy modules whose weights are not made yet; run it once"):
        trace(nn.LazyLinear(2), torch.randn(4, 5))


def test_what_a_subclass_holds_beside_its_weight_is_named_and_counted() -> None:
    class LowRank(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, 4)
            self.a, self.scale = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.ones(3))
            self.inner = nn.Linear(4, 2, bias=False)  # a layer of its own

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (x @ self.a.t()).sum() * self.scale.sum() + self.inner(super().forward(x)).sum()

    model = nn.Sequential(LowRank(), nn.Linear(4, 2)).eval()
    with pytest.warns(LeftInFloatWarning, match=r"beside weight and bias, .* counted as float32: 0 \(LowRank: a, scale\)"):
        layers = trace(model, torch.randn(3, 6))
    assert {layer.name: layer.held_elements for layer in layers} == {"0": 15, "0.inner": 0, "1": 0}
    assert float_bytes(layers) == 4 * (24 + 15 + 8 + 8)
    int4 = uniform_policy(layers, parse_layer_policy("weight=int4:tensor,activation=int8:tensor"))
    assert weight_bytes(layers, int4) == (4 * (24 + 8 + 8) + 3 * 32) / 8 + 4 * 15
    assert cost_policy(load_device("counts"), layers, int4)["weight_bytes"] == weight_bytes(layers, int4)
