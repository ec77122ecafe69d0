"""The C header: compiled by the system's compiler, one layer of each kind against torch's integers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from quant_core.errors import BitfrontError, InputError
from quant_core.export.c_array import KERNEL, c_layers, header
from quant_core.export.stored import stored_layers
from quant_core.policy import Policy, parse_layer_policy
from quant_core.ptq import PostTraining
from quant_core.trace import trace
from search.exporters.c_array import FILE, KERNELS, run_c


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


def engine() -> PostTraining:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Kinds().eval()
    return PostTraining(model, trace(model, X), [X], X)


@pytest.mark.parametrize(
    "text",
    [
        "weight=int8:channel,activation=int8:tensor",
        "weight=int4:tensor,activation=int5:tensor:affine",
        "weight=int3:channel,activation=int8:tensor",
    ],
)
def test_compiled_integers_equal_torchs(tmp_path: Path, text: str) -> None:
    made = engine()
    layers = trace(made.model, X)
    policy = Policy({each.name: parse_layer_policy(text) for each in layers})
    model = made.apply(policy)
    found = c_layers(model, stored_layers(made, layers, policy))
    (tmp_path / FILE).write_text(header(found, "A test."))
    (tmp_path / KERNELS).write_text(KERNEL)
    rng = np.random.default_rng(0)
    jobs, wanted = [], []
    for i, each in enumerate(found):
        assert each.stored.grid is not None
        low, high = (end - each.offset for end in each.stored.grid[2:])
        assert -128 <= low < high <= 127
        shape = {"conv": (4, 9, 8), "grouped": (6, 5, 7), "depthwise": (4, 5, 7), "linear": (11, 5)}[each.stored.layer.name]
        codes = rng.integers(low, high + 1, shape)
        values = torch.from_numpy(codes - (each.stored.grid[1] - each.offset)).double()
        weight, bias = torch.from_numpy(each.integers).double(), torch.from_numpy(each.bias).double()
        if each.stored.layer.name == "linear":
            out = functional.linear(values, weight, bias)[:, None, :]
        else:
            module = getattr(made.model, each.stored.layer.name)
            padded = functional.conv2d(values[None], weight, bias, module.stride, module.padding, module.dilation, module.groups)
            out = padded[0].permute(1, 2, 0)
        jobs.append((i, codes, tuple(out.shape)))
        wanted.append(out.numpy().astype(np.int64))
    assert any(each.bias.any() for each in found), "biases are compared too"
    for each, one, other in zip(found, run_c(tmp_path, jobs), wanted, strict=True):
        assert np.array_equal(one, other), each.stored.layer.name


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
    made = engine()
    layers = trace(made.model, X)
    policy = Policy({each.name: parse_layer_policy(text) for each in layers})
    with pytest.raises(InputError, match=f"layer 'conv': .*{message}"):
        c_layers(made.model, stored_layers(made, layers, policy))


def test_without_a_compiler_nothing_is_called_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BitfrontError, match="no C compiler"):
        run_c(tmp_path, [])
