"""The C header: compiled by the system's compiler, one layer of each kind against torch's integers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from quant_core.export.c_array import KERNEL, c_layers, header
from quant_core.export.stored import Quantized, post_training
from quant_core.network.trace import trace
from quant_core.ptq.engine import PostTraining
from quant_core.spec.policy import Policy, parse_layer_policy
from quant_core.util.errors import BitfrontError, InputError
from search.exporters.c_array import FILE, KERNELS, compiled


class Kinds(nn.Module):
    """A strided, dilated, a grouped and a depthwise convolution with two outputs per input, and a linear layer of several rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 0), dilation=(2, 1))
        self.grouped = nn.Conv2d(6, 4, 1, groups=2, bias=False)
        self.depthwise = nn.Conv2d(4, 8, 3, padding="same", groups=4)
        self.linear = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.depthwise(self.grouped(torch.relu(self.conv(x))))[..., :5])


X = torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(0))


def quantized(text: str) -> Quantized:
    """Return the network under one policy for all layers."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Kinds().eval()
    layers = trace(model, X)
    policy = Policy({layer.name: parse_layer_policy(text) for layer in layers})
    return post_training(PostTraining(model, layers, [X], X), model, layers, policy, X)


@pytest.mark.parametrize(
    "text",
    [
        "weight=int8:channel,activation=int8:tensor",
        "weight=int4:tensor,activation=int5:tensor:affine",
        "weight=int3:channel,activation=int8:tensor",
    ],
)
def test_compiled_integers_equal_torchs(tmp_path: Path, text: str) -> None:
    layers = c_layers(quantized(text))
    (tmp_path / FILE).write_text(header(layers, "A test."))
    (tmp_path / KERNELS).write_text(KERNEL)
    rng = np.random.default_rng(0)
    jobs, wanted = [], []
    for i, layer in enumerate(layers):
        assert layer.stored.grid is not None
        low, high = (end - layer.offset for end in layer.stored.grid[2:])
        assert -128 <= low < high <= 127
        shape = {"conv": (4, 9, 8), "grouped": (6, 5, 7), "depthwise": (4, 5, 7), "linear": (11, 5)}[layer.stored.layer.name]
        codes = rng.integers(low, high + 1, shape)
        values = torch.from_numpy(codes - (layer.stored.grid[1] - layer.offset)).double()
        weight, bias = torch.from_numpy(layer.integers << layer.shift).double(), torch.from_numpy(layer.bias).double()
        if layer.stored.layer.name == "linear":
            out = functional.linear(values, weight, bias)[:, None, :]
        else:
            module = getattr(Kinds(), layer.stored.layer.name)
            padded = functional.conv2d(values[None], weight, bias, module.stride, module.padding, module.dilation, module.groups)
            out = padded[0].permute(1, 2, 0)
        jobs.append((i, codes, tuple(out.shape)))
        wanted.append(out.numpy().astype(np.int64))
    assert any(layer.bias.any() for layer in layers), "biases are compared too"
    with compiled(tmp_path) as run:
        for layer, one, other in zip(layers, run(jobs), wanted, strict=True):
            assert np.array_equal(one, other), layer.stored.layer.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weight=int4:group4,activation=int8:tensor", "weight int4:group4; int2 to int8, symmetric, by tensor or channel"),
        ("weight=int8:channel:affine,activation=int8:tensor", "symmetric"),
        ("weight=float,activation=int8:tensor", "weight float"),
        ("weight=int8:channel,activation=int8:token", "activation int8:token; a range from calibration"),
        ("weight=int8:channel", "activation float; a range from calibration"),
    ],
)
def test_what_integers_cannot_hold_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"layer 'conv': .*{message}"):
        c_layers(quantized(text))


@pytest.mark.parametrize("text", ["weight=int8:channel,activation=int8:tensor", "weight=int2:channel,activation=int2:tensor"])
def test_biases_are_fine_and_sums_fit_32_bits(text: str) -> None:
    """With two bits a step of input scale x weight scale is a large part of a bias; sums have bits to spare for it."""
    for layer in c_layers(quantized(text)):
        assert layer.stored.grid is not None
        assert layer.stored.encoded is not None
        assert layer.stored.encoded.scale is not None
        scale, zero_point, low, high = layer.stored.grid
        steps = layer.stored.encoded.scale.double().numpy().reshape(-1) * scale / 2.0**layer.shift
        bias = np.zeros(len(layer.bias)) if layer.stored.bias is None else layer.stored.bias.double().numpy()
        assert np.abs(layer.bias * steps - bias).max() <= 0.5 * steps.max()
        assert steps.max() < 1e-4
        worst = np.abs(layer.integers).reshape(len(bias), -1).sum(axis=1) * max(high - zero_point, zero_point - low) << layer.shift
        assert (worst + np.abs(layer.bias)).max() < 2**31


def test_without_a_compiler_nothing_is_called_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BitfrontError, match="no C compiler"), compiled(tmp_path):
        pass
